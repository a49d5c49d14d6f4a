"""How the choices behind GIP's defaults change what it picks: each line of a table over many draws of a pool."""

from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from hf_gip import gip
from hf_gip.core.metrics import coverage, vendi
from hf_gip.core.queries import default_ridge
from hf_gip.features.lexical import LexicalEncoder

from .bank import Bank, load_bank
from .changes import objectives, stability
from .measures import junk
from .pools import Kind, Pool, make_pool
from .signals import Signals, embedded_texts
from .static import StaticEncoder
from .units import Unit
from .ways import WAYS, random_rows

SEEDS = 10
SETTINGS: dict[str, dict[str, list[Any]]] = {  # topic: the values of its options, all combinations
    "ridge, covering": {"k": [100, 500, 1500], "c": [0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, "random"]},
    "ridge, towards a target": {"k": [50, 250, 500, 1500], "c": [0.1, 1.0, 3.0, 10.0, 30.0, 100.0, "random"]},
    "ridge, covering a pool with junk": {"k": [250], "c": [0.1, 0.3, 1.0, 2.0, 3.0, 10.0, "random"]},
    "scores as": {
        "k": [250],
        "way": ["precision", "regression queries", "raw dual", "centred dual", "weighted queries", "top-k", "random"],
        "c": [0.3, 3.0],
    },
    "quality": {"k": [250], "exponent": [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 32.0, "random"]},
    "whitening": {"k": [50, 500], "queries": [3, 10, 60], "way": ["as they are", "whitened", "information", "random"]},
    "queries": {"k": [250], "queries": [1, 3, 10, 30, 60, "random"]},
    "encoder": {"k": [250], "encoder": ["MiniLM", "lexical", "static", "hidden states", "random"]},
    "objective": {"k": [50, 250, 500], "goal": ["cover", "target"]},
    "pursuit": {"k": [500, 1500], "way": ["orthogonal", "matching", "random"]},
    "stability": {
        "k": [250],
        "of": ["scores ± 1 %", "scores ± 5 %", "vectors ± 1 %", "1 % of rows away", "two random subsets"],
    },
}


def units(seeds: int = SEEDS) -> Iterable[Unit]:
    """One line of a table for one draw of a pool."""
    for seed in range(seeds):
        for topic, options in SETTINGS.items():
            cases: list[Unit] = [{}]
            for option, values in options.items():
                cases = [case | {option: value} for case in cases for value in values]
            for case in cases:
                yield {"topic": topic, **case, "seed": seed}


class Sensitivity:
    """Runs one unit."""

    def __init__(self, data: Path, signals: Callable[[], Signals]) -> None:
        """`signals` is asked for hidden states only."""
        self.data, self.signals = data, signals

    def run(self, unit: Unit) -> Unit:
        """The figures of one line for one draw."""
        bank = load_bank(self.data)
        kind: Kind = "alpaca" if unit["topic"] in ALPACA else "mixed"
        if unit["topic"].endswith("with junk"):
            kind = "noisy"
        pool = drawn(self.data, kind, unit["seed"])
        if unit["topic"] == "stability":
            return stability(pool, unit)
        if unit["topic"] == "objective":
            return objectives(pool, unit)
        if unit["topic"] == "encoder":
            return figures(bank, pool, self.by_encoder(bank, pool, unit))
        if "random" in unit.values():
            return figures(bank, pool, random_rows(pool, unit["k"], unit["seed"]))
        return figures(bank, pool, WAYS[unit["topic"]](pool, unit))

    def by_encoder(self, bank: Bank, pool: Pool, unit: Unit) -> Tensor:
        """Picks towards the target with another encoder, judged by MiniLM and by the share of the target's domain."""
        name, k = unit["encoder"], unit["k"]
        if name == "random":
            return random_rows(pool, k, unit["seed"])
        if name == "hidden states":
            rows, queries = self.signals().hidden[pool.members], self.signals().hidden_queries[pool.task]
        elif name != "MiniLM":
            rows, queries = by_other(self.data, name)[pool.members], embedded_texts(pool.queries, OTHERS[name]())
        else:
            rows, queries = pool.vectors, pool.queries.vectors
        return gip(rows, queries, k, noise=default_ridge(k, rows.shape[1], towards_target=True)).indices


OPTIONS = ("k", "c", "way", "exponent", "queries", "encoder", "goal", "of")
ALPACA = ("ridge, covering", "scores as", "quality", "stability")
OTHERS: dict[str, Callable[[], object]] = {"lexical": LexicalEncoder, "static": StaticEncoder}


@lru_cache(maxsize=24)
def drawn(data: Path, kind: Kind, seed: int) -> Pool:
    """One draw of a pool."""
    return make_pool(load_bank(data), kind, seed)


@cache
def by_other(data: Path, encoder: str) -> Tensor:
    """Another encoder's vectors of the whole bank."""
    return embedded_texts(load_bank(data).rows, OTHERS[encoder]())


def figures(bank: Bank, pool: Pool, picks: Tensor) -> Unit:
    """Coverage of rows outside the pool, diversity, judges' score, and how well a target is served."""
    chosen = pool.vectors[picks]
    found = {
        "coverage": coverage(bank.judges["alpaca"].vectors, chosen),
        "vendi": vendi(chosen),
        "judges' score": float(pool.scores[picks].nanmean()),
    }
    if pool.kind == "noisy":
        del found["judges' score"]  # shuffled rows have none
        found["junk"] = junk(pool, picks)[0]
    if pool.kind == "mixed":
        found["target share"] = float((pool.source[picks] == 1).double().mean())
        found["target coverage"] = coverage(bank.judges["gsm8k"].vectors, chosen)
    return found
