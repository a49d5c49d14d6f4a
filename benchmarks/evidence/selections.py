"""Which rows every method picks from every pool, and what can be said of them without training."""

import math
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import torch

from .data import load_bank
from .jobs import Kept, Unit
from .measures import measure
from .methods import METHODS, SEEDED, choose
from .model_features import load_signals
from .pools import KINDS, ROWS, Kind, Pool, make_pool
from .training import Size

BUDGETS = (0.01, 0.02, 0.05, 0.10)
POOL_SEEDS = 10
DRAWS = 3  # random subsets per pool


def units(pool_seeds: int = POOL_SEEDS) -> Iterable[Unit]:
    """Every selection of the experiment, the pools of one seed after those of another."""
    for budget in (0.05, 0.01, 0.10, 0.02):
        for seed in range(pool_seeds):
            for kind in KINDS:
                for method in METHODS:
                    for draw in range(DRAWS if method in SEEDED else 1):
                        yield {"pool": kind, "method": method, "budget": budget, "seed": seed, "draw": draw}


class Selections:
    """Picks by unit, kept between runs."""

    def __init__(self, data: Path, size: Size, device: str) -> None:
        """Open what is kept."""
        self.data, self.size, self.device = data, size, device
        self.kept = Kept("picks")

    def picks(self, unit: Unit) -> list[int]:
        """Positions in the pool."""
        return self.kept.get(unit, self._choose)["picks"]

    def _choose(self, unit: Unit) -> Unit:
        signals = load_signals(self.data, self.size, self.device)
        pool = self.pool(unit["pool"], unit["seed"])
        k = math.floor(unit["budget"] * ROWS)
        seed = 1_000 * unit["seed"] + unit["draw"]
        return {"picks": choose(unit["method"], pool, signals, k, seed).tolist()}

    def pool(self, kind: Kind, seed: int) -> Pool:
        """A pool with the base model's view of its rows."""
        return _pool(self.data, self.size, self.device, kind, seed)

    def measured(self, unit: Unit) -> Unit:
        """What can be said of a unit's picks without training."""
        pool = self.pool(unit["pool"], unit["seed"])
        return measure(load_bank(self.data), pool, torch.tensor(self.picks(unit)))


@lru_cache(maxsize=64)
def _pool(data: Path, size: Size, device: str, kind: Kind, seed: int) -> Pool:
    benefit = load_signals(data, size, device).benefit
    return make_pool(load_bank(data), kind, seed, benefit=benefit)
