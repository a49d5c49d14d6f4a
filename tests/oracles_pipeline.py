"""The SPICE paper's pipeline written out: one row at a time, autograd, numpy, torch's own AdamW."""

from collections.abc import Sequence

import numpy as np
import torch
from oracles_spice import greedy_spice
from torch import Tensor, nn

Row = dict[str, list[int]]


def loss_of(model: nn.Module, row: Row) -> Tensor:
    return model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss


def pipeline(
    model: nn.Module, rows: Sequence[Row], k: int, window: int, update_every: int | None, seed: int, **options
) -> list[int]:
    """Picks of a shuffled walk through the windows; trains `model` for good."""
    model.eval()
    weights = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
    optimizer = torch.optim.AdamW(weights, lr=0.05, weight_decay=0.01)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen: list[int] = []
    buffer: list[int] = []
    for start in range(0, len(order), window):
        window_rows = order[start : start + window]
        share = (start + len(window_rows)) * k // len(order) - start * k // len(order)
        vectors = [torch.autograd.grad(loss_of(model, rows[i]), weights) for i in window_rows]
        G = np.stack([torch.cat([g.flatten() for g in vector]).double().numpy() for vector in vectors])
        picks = [window_rows[i] for i in greedy_spice(G, share, **options)[0]]
        chosen += picks
        buffer += picks
        while update_every is not None and len(buffer) >= update_every:
            optimizer.zero_grad()
            for i in buffer[:update_every]:
                (loss_of(model, rows[i]) / update_every).backward()
            optimizer.step()
            buffer = buffer[update_every:]
    return chosen
