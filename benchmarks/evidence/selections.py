"""Rows that every method picks from every pool, and metrics of them that need no training."""

import math
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import torch

from .data import load_bank
from .jobs import Job, JobStore
from .measures import measure
from .methods import METHODS, SEEDED, select
from .model_features import load_model_features
from .pools import KINDS, ROWS, Kind, Pool, make_pool
from .training import Size

BUDGETS = (0.01, 0.02, 0.05, 0.10)
POOL_SEEDS = 10
DRAWS = 3  # random subsets per pool


def jobs(pool_seeds: int = POOL_SEEDS) -> Iterable[Job]:
    """Every selection of the experiment, the pools of one seed after those of another."""
    for budget in (0.05, 0.01, 0.10, 0.02):
        for seed in range(pool_seeds):
            for kind in KINDS:
                for method in METHODS:
                    for draw in range(DRAWS if method in SEEDED else 1):
                        yield {"pool": kind, "method": method, "budget": budget, "seed": seed, "draw": draw}


class Selections:
    """Picks of each job, stored between runs."""

    def __init__(self, data: Path, size: Size, device: str) -> None:
        """Open the stored picks."""
        self.data, self.size, self.device = data, size, device
        self.store = JobStore("picks")

    def picks(self, job: Job) -> list[int]:
        """Positions in the pool."""
        return self.store.get(job, self._choose)["picks"]

    def _choose(self, job: Job) -> Job:
        features = load_model_features(self.data, self.size, self.device)
        pool = self.pool(job["pool"], job["seed"])
        k = math.floor(job["budget"] * ROWS)
        seed = 1_000 * job["seed"] + job["draw"]
        return {"picks": select(job["method"], pool, features, k, seed).tolist()}

    def pool(self, kind: Kind, seed: int) -> Pool:
        """A pool, with the prompt benefit of its rows."""
        return _pool(self.data, self.size, self.device, kind, seed)

    def metrics(self, job: Job) -> Job:
        """Metrics of a job's picks that need no training."""
        pool = self.pool(job["pool"], job["seed"])
        return measure(load_bank(self.data), pool, torch.tensor(self.picks(job)))


@lru_cache(maxsize=64)
def _pool(data: Path, size: Size, device: str, kind: Kind, seed: int) -> Pool:
    benefit = load_model_features(data, size, device).benefit
    return make_pool(load_bank(data), kind, seed, benefit=benefit)
