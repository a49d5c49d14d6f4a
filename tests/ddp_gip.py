"""One rank of tests/core/test_gip_ranks.py: holds its share of the rows and writes what it saw."""

import datetime
import json
import os
import sys
from pathlib import Path

import samples
import torch
import torch.distributed as dist
from torch import Tensor

from hf_gip import gip


def choices(mine: Tensor, Q: Tensor) -> dict[str, list]:
    """Both objectives, with and without queries, in both types."""
    results = {}
    for name in ("projection", "information"):
        for queries in (Q, None):
            for dtype in (torch.float32, torch.float64):
                typed = None if queries is None else queries.to(dtype)
                selection = gip(mine.to(dtype), typed, 150, objective=name, group=dist.group.WORLD)
                label = "pool" if queries is None else "queries"
                results[f"{name} {label} {dtype}"] = [selection.indices.tolist(), selection.objective, selection.total]
    return results


def die(picks: int, passes: int) -> None:
    """End without a word after two passes, as a killed process does."""
    if passes == 2:
        os._exit(9)


def faulty(mode: str, rank: int, mine: Tensor, Q: Tensor) -> None:
    """What rank 1 does otherwise than the others."""
    wrong = mine.clone()
    wrong[3] = torch.nan
    features = wrong if (mode, rank) == ("nan", 1) else mine
    queries = Q + 1 if (mode, rank) == ("queries", 1) else Q
    k = 301 if (mode, rank) == ("k", 1) else 300
    progress = die if (mode, rank) == ("dies", 1) else None
    gip(features, queries, k, group=dist.group.WORLD, progress=progress)


def main() -> None:
    """Write this rank's JSON file."""
    out, mode = Path(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    rank, world = dist.get_rank(), dist.get_world_size()
    X, Q = samples.rows(700, 24, duplicates=60), samples.queries(5, 24)
    ends = [0, *(700 * (r + 1) // world + 13 * (r % 2 + 1) for r in range(world - 1)), 700]
    mine = X[ends[rank] : ends[rank + 1]]
    results = {}
    try:
        if mode == "picks":
            results = choices(mine, Q)
        else:
            faulty(mode, rank, mine, Q)
    except (ValueError, RuntimeError) as error:
        results = {"error": str(error)}
    part = out / f"{mode}-{world}-{rank}.part"
    part.write_text(json.dumps(results))  # a launcher that ends the job may end this rank here
    part.rename(part.with_suffix(".json"))
    dist.destroy_process_group()  # left to the end of the process, its threads now and then abort it


main()
