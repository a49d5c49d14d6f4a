"""LESS's gradients written out: torch's own AdamW over random rows, then autograd row by row at every checkpoint."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from oracles_pipeline import Row, loss_of
from torch import Tensor, nn


@dataclass
class Point:
    """One checkpoint: gradients of the pool's rows through Adam's moments, of the target's rows plain."""

    rate: float
    rows: Tensor
    plain: Tensor
    targets: Tensor
    snapshots: list[Tensor]


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def gradient(model: nn.Module, row: Row, weights: Sequence[Tensor]) -> Tensor:
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss_of(model, row), weights)])


def trajectory(
    model: nn.Module, rows: Sequence[Row], targets: Sequence[Row], share: float, epochs: int, peak: float, seed: int
) -> list[Point]:
    """The checkpoints of a warm-up run; trains `model` for good."""
    model.eval()
    weights = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
    optimizer = torch.optim.AdamW(weights, lr=0.0, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    count = round(share * len(rows))
    chosen = torch.randperm(len(rows), generator=generator)[:count]
    batches = [chosen[torch.randperm(count, generator=generator)].split(32) for _ in range(epochs)]
    steps = sum(map(len, batches))
    ramp = math.ceil(0.03 * steps)
    points, done = [], 0
    for epoch in batches:
        rates, snapshots = [], [torch.cat([weight.detach().flatten().clone() for weight in weights])]
        for batch in epoch:
            rates.append(peak * ((done + 1) / ramp if done < ramp else (steps - done) / (steps - ramp + 1)))
            optimizer.param_groups[0]["lr"] = rates[-1]
            optimizer.zero_grad()
            for i in batch.tolist():
                (loss_of(model, rows[i]) / len(batch)).backward()
            optimizer.step()
            done += 1
            snapshots.append(torch.cat([weight.detach().flatten().clone() for weight in weights]))
        m, v = (
            torch.cat([optimizer.state[weight][name].flatten() for weight in weights])
            for name in ("exp_avg", "exp_avg_sq")
        )
        plain = torch.stack([gradient(model, row, weights) for row in rows])
        adam = (0.9 * m + 0.1 * plain) / torch.sqrt(0.999 * v + 0.001 * plain.square() + 1e-8)
        goals = torch.stack([gradient(model, row, weights) for row in targets])
        points.append(Point(sum(rates) / len(rates), adam, plain, goals, snapshots))
    return points
