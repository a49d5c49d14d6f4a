"""How the choices behind GIP's defaults change what it picks: each line of a table over many draws of a pool."""

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_gip import gip
from hf_gip.core.judge import captured_share, coverage, vendi
from hf_gip.core.queries import default_noise, precision_from_scores, whiten
from hf_gip.features.lexical import LexicalEncoder

from .bank import Bank, load_bank
from .measures import junk
from .methods import gip_with, largest
from .pools import Kind, Pool, make_pool
from .signals import Signals, embedded_texts
from .units import Unit

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
    "encoder": {"k": [250], "encoder": ["MiniLM", "lexical", "hidden states", "random"]},
    "objective": {"k": [50, 250, 500], "goal": ["cover", "target"]},
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
        elif name == "lexical":
            rows, queries = lexical(self.data)[pool.members], embedded_texts(pool.queries, LexicalEncoder())
        else:
            rows, queries = pool.vectors, pool.queries.vectors
        return gip(rows, queries, k, noise=default_noise(k, rows.shape[1], towards_target=True)).indices


OPTIONS = ("k", "c", "way", "exponent", "queries", "encoder", "goal", "of")
ALPACA = ("ridge, covering", "scores as", "quality", "stability")


@lru_cache(maxsize=24)
def drawn(data: Path, kind: Kind, seed: int) -> Pool:
    """One draw of a pool."""
    return make_pool(load_bank(data), kind, seed)


@lru_cache(maxsize=1)
def lexical(data: Path) -> Tensor:
    """Lexical vectors of the whole bank."""
    return embedded_texts(load_bank(data).rows, LexicalEncoder())


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


def random_rows(pool: Pool, k: int, seed: int) -> Tensor:
    """A random subset."""
    return torch.randperm(len(pool.members), generator=torch.Generator().manual_seed(seed))[:k]


def some_queries(pool: Pool, count: int, seed: int) -> Tensor:
    """A random few of the queries."""
    order = torch.randperm(len(pool.queries), generator=torch.Generator().manual_seed(seed))
    return pool.queries.vectors[order[:count]]


def cover_by_ridge(pool: Pool, unit: Unit) -> Tensor:
    """Covering the pool with noise c·k/d."""
    return gip(pool.vectors, None, unit["k"], noise=unit["c"] * unit["k"] / pool.vectors.shape[1]).indices


def target_by_ridge(pool: Pool, unit: Unit) -> Tensor:
    """Towards the target with noise c·k/d."""
    noise = unit["c"] * unit["k"] / pool.vectors.shape[1]
    return gip(pool.vectors, pool.queries.vectors, unit["k"], noise=noise).indices


def by_quality(pool: Pool, unit: Unit) -> Tensor:
    """Scores as precision with another exponent."""
    return gip_with(pool, unit["k"], scores=True, quality=unit["exponent"])


def by_queries(pool: Pool, unit: Unit) -> Tensor:
    """Towards fewer rows of the target."""
    queries = some_queries(pool, unit["queries"], unit["seed"])
    noise = default_noise(unit["k"], queries.shape[1], towards_target=True)
    return gip(pool.vectors, queries, unit["k"], noise=noise).indices


def by_whitening(pool: Pool, unit: Unit) -> Tensor:
    """Towards few or many queries, as they are, whitened, or by the information."""
    queries = some_queries(pool, unit["queries"], unit["seed"])
    noise = default_noise(unit["k"], queries.shape[1], towards_target=True)
    if unit["way"] == "whitened":
        queries = whiten(queries)
    objective = "information" if unit["way"] == "information" else "projection"
    return gip(pool.vectors, queries, unit["k"], noise=noise, objective=objective).indices


def by_scores(pool: Pool, unit: Unit) -> Tensor:
    """What can be made of scores: the ways that were tried before precision became the default."""
    k, c, X = unit["k"], unit["c"], pool.vectors
    share = precision_from_scores(pool.scores)
    raw = pool.scores.float()
    if unit["way"] == "precision":
        return gip(X, None, k, noise=c * float(share.square().mean()), precision=share).indices
    if unit["way"] == "weighted queries":
        return gip(X, X * share[:, None].float(), k, noise=c).indices
    if unit["way"] == "regression queries":
        ridge = X.T @ X + 1e-2 * len(X) / X.shape[1] * torch.eye(X.shape[1])
        return gip(X, torch.linalg.solve(ridge, X.T @ (raw - raw.mean(0))).T, k, noise=c).indices
    if unit["way"].endswith("dual"):
        return dual(X, raw - raw.mean(0) if unit["way"].startswith("centred") else raw, k, c)
    return largest(share, k)


def dual(X: Tensor, scores: Tensor, k: int, noise: float) -> Tensor:
    """The same greedy with the score matrix itself as the correlations C, as the paper's dual form reads."""
    correlation, energy = scores.double(), X.double().square().sum(1)
    picks, directions = [], torch.zeros(0, len(X), dtype=torch.float64)
    for _ in range(k):
        gains = correlation.square().sum(1) / (energy + noise)
        gains[picks] = -1
        best = int(gains.argmax())
        step = (X @ X[best]).double() - directions.T @ directions[:, best]
        step /= math.sqrt(float(energy[best]) + noise)
        correlation = correlation - step[:, None] * (correlation[best] / math.sqrt(float(energy[best]) + noise))
        energy = (energy - step.square()).clamp(min=0)
        directions = torch.cat([directions, step[None]])
        picks.append(best)
    return torch.tensor(picks)


WAYS: dict[str, Callable[[Pool, Unit], Tensor]] = {
    "ridge, covering": cover_by_ridge,
    "ridge, covering a pool with junk": cover_by_ridge,
    "ridge, towards a target": target_by_ridge,
    "scores as": by_scores,
    "quality": by_quality,
    "queries": by_queries,
    "whitening": by_whitening,
}


def objectives(pool: Pool, unit: Unit) -> Unit:
    """How much of the other's objective each objective reaches, and how many picks they share."""
    k, target = unit["k"], unit["goal"] == "target"
    noise = default_noise(k, pool.vectors.shape[1], towards_target=target)
    queries = pool.queries.vectors if target else None
    picks = {
        name: gip(pool.vectors, queries, k, noise=noise, objective=name) for name in ("projection", "information")
    }
    trace, nats = picks["projection"].indices, picks["information"].indices
    share = [captured_share(pool.vectors, queries, rows, noise) for rows in (nats, trace)]
    return {
        "jaccard": jaccard(trace, nats),
        "energy of information's picks / projection's": share[0] / share[1],
        "nats of projection's picks / information's": nats_of(pool.vectors, queries, trace, noise)
        / nats_of(pool.vectors, queries, nats, noise),
    }


def nats_of(X: Tensor, queries: Tensor | None, picks: Tensor, noise: float) -> float:
    """½ log det(Q Qᵀ + τ²I) − ½ log det(Q Σ_S Qᵀ + τ²I), from its definition on the d side."""
    X = X.double()
    Q = X if queries is None else queries.double()
    unit = torch.eye(X.shape[1], dtype=torch.float64)
    sigma2, tau2 = noise * float(X.square().sum(1).mean()), noise * float(Q.square().sum(1).mean())
    known = torch.linalg.cholesky(torch.linalg.inv(unit + X[picks].T @ X[picks] / sigma2))
    asked = Q.T @ Q / tau2
    before, after = torch.linalg.slogdet(unit + asked)[1], torch.linalg.slogdet(unit + known.T @ asked @ known)[1]
    return 0.5 * float(before - after)


def stability(pool: Pool, unit: Unit) -> Unit:
    """|A ∩ B| / |A ∪ B| of the picks before and after a small change, for covering and by scores."""
    k, generator = unit["k"], torch.Generator().manual_seed(unit["seed"])
    changed, kept = pool, torch.arange(len(pool.members))
    if unit["of"].startswith("scores"):
        share = 0.01 if "1 %" in unit["of"] else 0.05
        noise = 2 * torch.rand(pool.scores.shape, generator=generator, dtype=torch.float64) - 1
        changed = replaced(pool, kept, scores=pool.scores + share * noise * 5)
    elif unit["of"] == "vectors ± 1 %":
        noise = torch.nn.functional.normalize(torch.randn(pool.vectors.shape, generator=generator))
        changed = replaced(pool, kept, vectors=torch.nn.functional.normalize(pool.vectors + 0.01 * noise))
    elif unit["of"] == "1 % of rows away":
        order = torch.randperm(len(kept), generator=generator)
        kept = order[: int(0.99 * len(kept))].sort().values
        changed = replaced(pool, kept)
    else:
        return {"cover": jaccard(random_rows(pool, k, 0), random_rows(pool, k, 1))}
    found = {}
    for name, options in {"cover": {}, "scores": {"scores": True}, "target": {"target": True}}.items():
        found[name] = jaccard(gip_with(pool, k, **options), kept[gip_with(changed, k, **options)])
    found["top-k score"] = jaccard(
        largest(precision_from_scores(pool.scores), k), kept[largest(precision_from_scores(changed.scores), k)]
    )
    return found


def replaced(pool: Pool, kept: Tensor, *, scores: Tensor | None = None, vectors: Tensor | None = None) -> Pool:
    """The pool with fewer rows, other scores or other vectors."""
    return Pool(
        kind=pool.kind,
        seed=pool.seed,
        members=pool.members[kept],
        vectors=(pool.vectors if vectors is None else vectors)[kept],
        lengths=pool.lengths[kept],
        scores=(pool.scores if scores is None else scores)[kept],
        queries=pool.queries,
        task=pool.task,
        source=pool.source[kept],
    )


def jaccard(first: Tensor, second: Tensor) -> float:
    """|A ∩ B| / |A ∪ B|."""
    a, b = set(first.tolist()), set(second.tolist())
    return len(a & b) / len(a | b)
