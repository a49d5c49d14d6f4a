"""Selections with one default of GIP changed, by topic."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hf_gip import gip
from hf_gip.core.queries import default_ridge, precision_from_scores, whiten

from .jobs import Job
from .methods import gip_with, top_k
from .pools import Pool


def random_rows(pool: Pool, k: int, seed: int) -> Tensor:
    """A random subset."""
    return torch.randperm(len(pool.members), generator=torch.Generator().manual_seed(seed))[:k]


def sample_queries(pool: Pool, count: int, seed: int) -> Tensor:
    """A random sample of the queries."""
    order = torch.randperm(len(pool.queries), generator=torch.Generator().manual_seed(seed))
    return pool.queries.vectors[order[:count]]


def cover_with_ridge(pool: Pool, job: Job) -> Tensor:
    """Covering the pool with noise c·k/d."""
    return gip(pool.vectors, None, job["k"], noise=job["c"] * job["k"] / pool.vectors.shape[1]).indices


def target_with_ridge(pool: Pool, job: Job) -> Tensor:
    """Towards the target with noise c·k/d."""
    noise = job["c"] * job["k"] / pool.vectors.shape[1]
    return gip(pool.vectors, pool.queries.vectors, job["k"], noise=noise).indices


def with_quality(pool: Pool, job: Job) -> Tensor:
    """Scores as precision with a given exponent."""
    return gip_with(pool, job["k"], scores=True, quality=job["exponent"])


def with_fewer_queries(pool: Pool, job: Job) -> Tensor:
    """Towards a sample of the target rows."""
    queries = sample_queries(pool, job["queries"], job["seed"])
    noise = default_ridge(job["k"], queries.shape[1], towards_target=True)
    return gip(pool.vectors, queries, job["k"], noise=noise).indices


def with_query_transform(pool: Pool, job: Job) -> Tensor:
    """Towards a sample of the queries: unchanged, whitened, or with the information objective."""
    queries = sample_queries(pool, job["queries"], job["seed"])
    noise = default_ridge(job["k"], queries.shape[1], towards_target=True)
    if job["variant"] == "whitened":
        queries = whiten(queries)
    objective = "information" if job["variant"] == "information" else "projection"
    return gip(pool.vectors, queries, job["k"], noise=noise, objective=objective).indices


def with_scores_as(pool: Pool, job: Job) -> Tensor:
    """Alternative uses of scores, tried before precision became the default."""
    k, c, X = job["k"], job["c"], pool.vectors
    precision = precision_from_scores(pool.scores)
    scores = pool.scores.float()
    if job["variant"] == "precision":
        return gip(X, None, k, noise=c * float(precision.square().mean()), precision=precision).indices
    if job["variant"] == "weighted queries":
        return gip(X, X * precision[:, None].float(), k, noise=c).indices
    if job["variant"] == "regression queries":
        ridge = X.T @ X + 1e-2 * len(X) / X.shape[1] * torch.eye(X.shape[1])
        return gip(X, torch.linalg.solve(ridge, X.T @ (scores - scores.mean(0))).T, k, noise=c).indices
    if job["variant"].endswith("dual"):
        return dual_greedy(X, scores - scores.mean(0) if job["variant"].startswith("centered") else scores, k, c)
    return top_k(precision, k)


def dual_greedy(X: Tensor, scores: Tensor, k: int, noise: float) -> Tensor:
    """The paper's dual form: greedy with the score matrix as the correlations C."""
    correlation, energy = scores.double(), X.double().square().sum(1)
    picks, directions = [], torch.zeros(0, len(X), dtype=torch.float64)
    for _ in range(k):
        gains = correlation.square().sum(1) / (energy + noise)
        gains[picks] = -1
        best = int(gains.argmax())
        direction = (X @ X[best]).double() - directions.T @ directions[:, best]
        direction /= math.sqrt(float(energy[best]) + noise)
        correlation = correlation - direction[:, None] * (correlation[best] / math.sqrt(float(energy[best]) + noise))
        energy = (energy - direction.square()).clamp(min=0)
        directions = torch.cat([directions, direction[None]])
        picks.append(best)
    return torch.tensor(picks)


def with_pursuit(pool: Pool, job: Job) -> Tensor:
    """Orthogonal or plain matching pursuit towards a target."""
    return gip_with(pool, job["k"], target=True, pursuit=job["variant"])


ABLATIONS: dict[str, Callable[[Pool, Job], Tensor]] = {
    "ridge, covering": cover_with_ridge,
    "ridge, covering a pool with junk": cover_with_ridge,
    "ridge, towards a target": target_with_ridge,
    "scores as": with_scores_as,
    "quality": with_quality,
    "queries": with_fewer_queries,
    "whitening": with_query_transform,
    "pursuit": with_pursuit,
}
