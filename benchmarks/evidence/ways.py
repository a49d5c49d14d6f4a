"""Picks with one choice behind GIP's defaults made otherwise, by topic."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hf_gip import gip
from hf_gip.core.queries import default_ridge, precision_from_scores, whiten

from .methods import gip_with, largest
from .pools import Pool
from .units import Unit


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
    noise = default_ridge(unit["k"], queries.shape[1], towards_target=True)
    return gip(pool.vectors, queries, unit["k"], noise=noise).indices


def by_whitening(pool: Pool, unit: Unit) -> Tensor:
    """Towards few or many queries, as they are, whitened, or by the information."""
    queries = some_queries(pool, unit["queries"], unit["seed"])
    noise = default_ridge(unit["k"], queries.shape[1], towards_target=True)
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


def by_pursuit(pool: Pool, unit: Unit) -> Tensor:
    """Orthogonal or plain matching pursuit towards a target."""
    return gip_with(pool, unit["k"], target=True, pursuit=unit["way"])


WAYS: dict[str, Callable[[Pool, Unit], Tensor]] = {
    "ridge, covering": cover_by_ridge,
    "ridge, covering a pool with junk": cover_by_ridge,
    "ridge, towards a target": target_by_ridge,
    "scores as": by_scores,
    "quality": by_quality,
    "queries": by_queries,
    "whitening": by_whitening,
    "pursuit": by_pursuit,
}
