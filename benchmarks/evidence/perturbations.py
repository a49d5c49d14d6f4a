"""How far the two objectives agree, and how stable the picks are under small changes of the data."""

import torch
from torch import Tensor

from hf_gip import gip
from hf_gip.core.metrics import captured_share
from hf_gip.core.queries import default_ridge, precision_from_scores

from .ablations import random_rows
from .jobs import Job
from .methods import gip_with, top_k
from .pools import Pool


def compare_objectives(pool: Pool, job: Job) -> Job:
    """Share of each objective that the other one reaches, and overlap of the picks."""
    k, target = job["k"], job["mode"] == "target"
    noise = default_ridge(k, pool.vectors.shape[1], towards_target=target)
    queries = pool.queries.vectors if target else None
    picks = {
        name: gip(pool.vectors, queries, k, noise=noise, objective=name) for name in ("projection", "information")
    }
    trace, nats = picks["projection"].indices, picks["information"].indices
    captured = [captured_share(pool.vectors, queries, rows, noise) for rows in (nats, trace)]
    return {
        "jaccard": jaccard(trace, nats),
        "energy of information's picks / projection's": captured[0] / captured[1],
        "nats of projection's picks / information's": information_nats(pool.vectors, queries, trace, noise)
        / information_nats(pool.vectors, queries, nats, noise),
    }


def information_nats(X: Tensor, queries: Tensor | None, picks: Tensor, noise: float) -> float:
    """½ log det(Q Qᵀ + τ²I) − ½ log det(Q Σ_S Qᵀ + τ²I), from the definition, in the d × d form."""
    X = X.double()
    Q = X if queries is None else queries.double()
    identity = torch.eye(X.shape[1], dtype=torch.float64)
    sigma2, tau2 = noise * float(X.square().sum(1).mean()), noise * float(Q.square().sum(1).mean())
    posterior = torch.linalg.cholesky(torch.linalg.inv(identity + X[picks].T @ X[picks] / sigma2))
    query_precision = Q.T @ Q / tau2
    before, after = (
        torch.linalg.slogdet(identity + query_precision)[1],
        torch.linalg.slogdet(identity + posterior.T @ query_precision @ posterior)[1],
    )
    return 0.5 * float(before - after)


def pick_stability(pool: Pool, job: Job) -> Job:
    """|A ∩ B| / |A ∪ B| of the picks before and after a small change, by mode."""
    k, generator = job["k"], torch.Generator().manual_seed(job["seed"])
    perturbed, row_ids = pool, torch.arange(len(pool.members))
    if job["change"].startswith("scores"):
        amplitude = 0.01 if "1 %" in job["change"] else 0.05
        noise = 2 * torch.rand(pool.scores.shape, generator=generator, dtype=torch.float64) - 1
        perturbed = with_changes(pool, row_ids, scores=pool.scores + amplitude * noise * 5)
    elif job["change"] == "vectors ± 1 %":
        noise = torch.nn.functional.normalize(torch.randn(pool.vectors.shape, generator=generator))
        perturbed = with_changes(pool, row_ids, vectors=torch.nn.functional.normalize(pool.vectors + 0.01 * noise))
    elif job["change"] == "1 % of rows away":
        order = torch.randperm(len(row_ids), generator=generator)
        row_ids = order[: int(0.99 * len(row_ids))].sort().values
        perturbed = with_changes(pool, row_ids)
    else:
        return {"cover": jaccard(random_rows(pool, k, 0), random_rows(pool, k, 1))}
    overlaps = {}
    for name, options in {"cover": {}, "scores": {"scores": True}, "target": {"target": True}}.items():
        overlaps[name] = jaccard(gip_with(pool, k, **options), row_ids[gip_with(perturbed, k, **options)])
    overlaps["top-k score"] = jaccard(
        top_k(precision_from_scores(pool.scores), k), row_ids[top_k(precision_from_scores(perturbed.scores), k)]
    )
    return overlaps


def with_changes(pool: Pool, row_ids: Tensor, *, scores: Tensor | None = None, vectors: Tensor | None = None) -> Pool:
    """The pool with fewer rows, other scores or other vectors."""
    return Pool(
        kind=pool.kind,
        seed=pool.seed,
        members=pool.members[row_ids],
        vectors=(pool.vectors if vectors is None else vectors)[row_ids],
        lengths=pool.lengths[row_ids],
        scores=(pool.scores if scores is None else scores)[row_ids],
        queries=pool.queries,
        task=pool.task,
        source=pool.source[row_ids],
    )


def jaccard(first: Tensor, second: Tensor) -> float:
    """|A ∩ B| / |A ∪ B|."""
    a, b = set(first.tolist()), set(second.tolist())
    return len(a & b) / len(a | b)
