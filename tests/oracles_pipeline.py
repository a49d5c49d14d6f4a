"""The SPICE paper's pipeline written out: one row at a time, autograd, numpy, torch's own AdamW."""

from collections.abc import Sequence

import numpy as np
import torch
from oracles_spice import conflict, gain
from torch import Tensor, nn

Row = dict[str, list[int]]


def loss_of(model: nn.Module, row: Row) -> Tensor:
    return model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss


def pipeline(
    model: nn.Module,
    rows: Sequence[Row],
    k: int | None,
    window: int,
    update_every: int | None,
    seed: int,
    *,
    normalize: bool = True,
    alpha: float = 0.01,
    penalty: float = 0.1,
    stop_ratio: float | None = None,
    peak: float = 0.05,
) -> list[int]:
    """Picks of a shuffled walk through the windows; trains `model` for good.

    One row at a time: the gradients of the window's free rows as the model is now, those of the chosen ones as it was
    when they were chosen. α is a weight of gradients in units of the root mean square length that the window began
    with.
    """
    model.eval()
    weights = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
    optimizer = torch.optim.AdamW(weights, lr=peak, weight_decay=0.01)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()

    def gradient(row: int) -> np.ndarray:
        vector = torch.autograd.grad(loss_of(model, rows[row]), weights)
        g = torch.cat([part.flatten() for part in vector]).double().numpy()
        return g / np.linalg.norm(g) if normalize else g

    chosen: list[int] = []
    buffer: list[int] = []
    passed = 0  # picks that the windows so far could have given
    for start in range(0, len(order), window):
        free = order[start : start + window]
        end = start + len(free)
        quota = len(free) if k is None else end * k // len(order) - start * k // len(order)
        G = {row: gradient(row) for row in free}
        scale = 1 / np.sqrt(np.mean([g @ g for g in G.values()]))
        picks: list[np.ndarray] = []
        first_gain = 0.0
        while len(picks) < quota:
            candidates = np.stack([*picks, *(scale * G[row] for row in free)])
            before = list(range(len(picks)))
            gains = [gain(candidates, len(picks) + i, before, alpha, "full") for i in range(len(free))]
            clashes = [conflict(candidates, len(picks) + i, before) for i in range(len(free))]
            scores = np.array(gains) - penalty * np.array(clashes)
            slack = 1e-6 * (np.log1p(alpha * scale**2 * max(g @ g for g in G.values())) + penalty)
            best = int(np.argmax(scores >= scores.max() - slack))  # unit lengths tie: the first of the best
            if not picks:
                first_gain = gains[best]
            elif stop_ratio is not None and gains[best] <= stop_ratio * first_gain:
                break
            row = free.pop(best)
            picks.append(scale * G[row])
            chosen.append(row)
            buffer.append(row)
            if len(buffer) == update_every:
                progress = (passed + len(picks)) / (len(order) if k is None else k)
                optimizer.param_groups[0]["lr"] = peak * min(progress / 0.03, (1 - progress) / 0.97)
                optimizer.zero_grad()
                for i in buffer:
                    (loss_of(model, rows[i]) / update_every).backward()
                optimizer.step()
                buffer = []
                G = {row: gradient(row) for row in free}
        passed += quota
    return chosen
