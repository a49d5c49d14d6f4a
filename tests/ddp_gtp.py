"""One rank of tests/core/test_gtp_ranks.py: holds its share of the rows and writes what it saw."""

import json
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from samples import normal_rows
from torch import Tensor

from hf_gip import gtp

RUN: dict[str, Any] = {
    "warmup_fraction": 0.8,
    "warmup_epochs": 2,
    "warmup_learning_rate": 0.02,
    "seed": 3,
    "projection_dim": 100,
}


def problems() -> list[tuple[Tensor, Tensor | None, int]]:
    """Rows, a target and k: structure or none, copies, several targets, more rows than dimensions, hardly any help."""
    results = []
    for seed in range(32):
        rows = normal_rows(90 + seed, 8 + seed % 23, seed, clusters=3 * (seed % 2))
        if seed % 5 == 0:
            rows = torch.cat([rows, rows[:30]])[torch.randperm(len(rows) + 30, generator=torch.manual_seed(seed))]
        target = None if seed % 4 == 0 else normal_rows(1 + 2 * (seed % 3 == 0), rows.shape[1], seed + 99)
        results.append((rows, target, 3 + seed % 29))
    eye = torch.eye(60, dtype=torch.float64)
    return [*results, (eye, -eye[:2].sum(0), 7), (eye.repeat(2, 1), eye[:2].sum(0), 70)]


def share(rows: Tensor, rank: int, world: int) -> Tensor:
    """Unequal parts in rank order."""
    ends = [0, *(len(rows) * (each + 1) // world + 7 * (each % 2 + 1) for each in range(world - 1)), len(rows)]
    return rows[ends[rank] : ends[rank + 1]]


def choices(rank: int, world: int) -> list[Any]:
    """Indices, weights, objective and residual of every problem."""
    results = []
    for rows, target, k in problems():
        mine = share(rows, rank, world)
        half = mine.shape[1] // 2
        selection = gtp([mine[:, :half], mine[:, half:]], target, k, group=dist.group.WORLD)
        assert selection.weights is not None
        results.append(
            [selection.indices.tolist(), selection.weights.tolist(), selection.objective, selection.record["residual"]]
        )
    return results


def faults(rank: int, world: int) -> dict[str, str]:
    """What each mistake of the last rank alone says."""
    rows, target, k = problems()[1]
    mine, last = share(rows, rank, world), rank == world - 1
    wrong = mine.clone()
    wrong[3] = torch.nan
    calls: dict[str, Callable[[], object]] = {
        "k": lambda: gtp(mine, target, k + last, group=dist.group.WORLD),
        "target": lambda: gtp(mine, target + int(last), k, group=dist.group.WORLD),
        "learning_rates": lambda: gtp(mine, target, k, learning_rates=[1.0 + last], group=dist.group.WORLD),
        "ridge": lambda: gtp(mine, target, k, ridge=-1.0 * last, group=dist.group.WORLD),
        "nan": lambda: gtp(wrong if last else mine, target, k, group=dist.group.WORLD),
        "width": lambda: gtp(mine[:, 1:] if last else mine, None, k, group=dist.group.WORLD),
        "zeros": lambda: gtp(mine * 0, target, k, group=dist.group.WORLD),
    }
    results = {}
    for name, call in calls.items():
        try:
            call()
        except ValueError as error:
            results[name] = str(error)
    return results


def selected(folder: Path) -> list[Any]:
    """A whole run on a dataset, its gradients and its pursuit shared."""
    from datasets import Dataset, config
    from tiny_models import tiny_model, tiny_rows, with_lora

    import hf_gip

    config.HF_DATASETS_CACHE = folder / "cache"
    rows, target = (Dataset.from_list(each) for each in (tiny_rows(50), tiny_rows(7, seed=9)))
    selection = hf_gip.gtp_select(rows, 8, model=with_lora(tiny_model()), target=target, **RUN).selection
    assert selection.weights is not None
    return [selection.indices.tolist(), selection.weights.tolist(), selection.objective]


def die(passes: int, _: float) -> None:
    """End without a word after the second pass, as a killed process does."""
    if passes == 2:
        os._exit(9)


def main() -> None:
    """Write this rank's JSON file."""
    out, mode = Path(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank, world = dist.get_rank(), dist.get_world_size()
    if mode == "dies":
        rows = normal_rows(400, 60, 1, clusters=5)
        try:
            gtp(share(rows, rank, world), None, 30, group=dist.group.WORLD, progress=die if rank == 1 else None)
            results: dict[str, Any] = {}
        except RuntimeError as error:
            results = {"error": str(error)}
    else:
        results = {"picks": choices(rank, world), "faults": faults(rank, world)}
        if mode == "dataset":
            results["selected"] = selected(out)
    part = out / f"{mode}-{world}-{rank}.part"
    part.write_text(json.dumps(results))  # a launcher that ends the job may end this rank here
    part.rename(part.with_suffix(".json"))
    dist.destroy_process_group()  # left to the end of the process, its threads now and then abort it


if __name__ == "__main__":
    main()
