"""How GIP's defaults change its picks: each line of a table over many draws of a pool."""

from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from hf_gip import gip
from hf_gip.core.metrics import coverage, vendi
from hf_gip.core.queries import default_ridge
from hf_gip.features.encoders import LexicalEncoder

from .ablations import ABLATIONS, random_rows
from .data import Bank, load_bank
from .jobs import Job
from .measures import junk
from .model_features import ModelFeatures, embedded_texts
from .perturbations import compare_objectives, pick_stability
from .pools import Kind, Pool, make_pool
from .static import StaticEncoder

SEEDS = 10
SETTINGS: dict[str, dict[str, list[Any]]] = {  # topic: the values of its options, all combinations
    "ridge, covering": {"k": [100, 500, 1500], "c": [0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, "random"]},
    "ridge, towards a target": {"k": [50, 250, 500, 1500], "c": [0.1, 1.0, 3.0, 10.0, 30.0, 100.0, "random"]},
    "ridge, covering a pool with junk": {"k": [250], "c": [0.1, 0.3, 1.0, 2.0, 3.0, 10.0, "random"]},
    "scores as": {
        "k": [250],
        "variant": [
            "precision",
            "regression queries",
            "raw dual",
            "centered dual",
            "weighted queries",
            "top-k",
            "random",
        ],
        "c": [0.3, 3.0],
    },
    "quality": {"k": [250], "exponent": [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 32.0, "random"]},
    "whitening": {
        "k": [50, 500],
        "queries": [3, 10, 60],
        "variant": ["as they are", "whitened", "information", "random"],
    },
    "queries": {"k": [250], "queries": [1, 3, 10, 30, 60, "random"]},
    "encoder": {"k": [250], "encoder": ["MiniLM", "lexical", "static", "hidden states", "random"]},
    "objective": {"k": [50, 250, 500], "mode": ["cover", "target"]},
    "pursuit": {"k": [500, 1500], "variant": ["orthogonal", "matching", "random"]},
    "stability": {
        "k": [250],
        "change": ["scores ± 1 %", "scores ± 5 %", "vectors ± 1 %", "1 % of rows away", "two random subsets"],
    },
}


def jobs(seeds: int = SEEDS) -> Iterable[Job]:
    """One line of a table for one draw of a pool."""
    for seed in range(seeds):
        for topic, options in SETTINGS.items():
            cases: list[Job] = [{}]
            for option, values in options.items():
                cases = [case | {option: value} for case in cases for value in values]
            for case in cases:
                yield {"topic": topic, **case, "seed": seed}


class Sensitivity:
    """Runs one job."""

    def __init__(self, data: Path, features: Callable[[], ModelFeatures]) -> None:
        """`features` loads the model features. Only hidden states are used."""
        self.data, self.features = data, features

    def run(self, job: Job) -> Job:
        """The figures of one line for one draw."""
        bank = load_bank(self.data)
        kind: Kind = "alpaca" if job["topic"] in ALPACA else "mixed"
        if job["topic"].endswith("with junk"):
            kind = "noisy"
        pool = load_pool(self.data, kind, job["seed"])
        if job["topic"] == "stability":
            return pick_stability(pool, job)
        if job["topic"] == "objective":
            return compare_objectives(pool, job)
        if job["topic"] == "encoder":
            return measure_picks(bank, pool, self.select_with_encoder(bank, pool, job))
        if "random" in job.values():
            return measure_picks(bank, pool, random_rows(pool, job["k"], job["seed"]))
        return measure_picks(bank, pool, ABLATIONS[job["topic"]](pool, job))

    def select_with_encoder(self, bank: Bank, pool: Pool, job: Job) -> Tensor:
        """Picks towards the target with another encoder."""
        name, k = job["encoder"], job["k"]
        if name == "random":
            return random_rows(pool, k, job["seed"])
        if name == "hidden states":
            rows, queries = self.features().hidden[pool.members], self.features().hidden_queries[pool.task]
        elif name != "MiniLM":
            rows, queries = bank_vectors(self.data, name)[pool.members], embedded_texts(pool.queries, ENCODERS[name]())
        else:
            rows, queries = pool.vectors, pool.queries.vectors
        return gip(rows, queries, k, noise=default_ridge(k, rows.shape[1], towards_target=True)).indices


OPTIONS = ("k", "c", "variant", "exponent", "queries", "encoder", "mode", "change")
ALPACA = ("ridge, covering", "scores as", "quality", "stability")
ENCODERS: dict[str, Callable[[], object]] = {"lexical": LexicalEncoder, "static": StaticEncoder}


@lru_cache(maxsize=24)
def load_pool(data: Path, kind: Kind, seed: int) -> Pool:
    """One draw of a pool."""
    return make_pool(load_bank(data), kind, seed)


@cache
def bank_vectors(data: Path, encoder: str) -> Tensor:
    """Another encoder's vectors of the whole bank."""
    return embedded_texts(load_bank(data).rows, ENCODERS[encoder]())


def measure_picks(bank: Bank, pool: Pool, picks: Tensor) -> Job:
    """Coverage of held-out rows, diversity, judges' score, and share and coverage of the target."""
    chosen = pool.vectors[picks]
    metrics = {
        "coverage": coverage(bank.held_out["alpaca"].vectors, chosen),
        "vendi": vendi(chosen),
        "judges' score": float(pool.scores[picks].nanmean()),
    }
    if pool.kind == "noisy":
        del metrics["judges' score"]  # shuffled rows have none
        metrics["junk"] = junk(pool, picks)[0]
    if pool.kind == "mixed":
        metrics["target share"] = float((pool.source[picks] == 1).double().mean())
        metrics["target coverage"] = coverage(bank.held_out["gsm8k"].vectors, chosen)
    return metrics
