"""What the other objective would pick, and how many picks stay after a small change of the data."""

import torch
from torch import Tensor

from hf_gip import gip
from hf_gip.core.metrics import captured_share
from hf_gip.core.queries import default_ridge, precision_from_scores

from .methods import gip_with, largest
from .pools import Pool
from .units import Unit
from .ways import random_rows


def objectives(pool: Pool, unit: Unit) -> Unit:
    """How much of the other's objective each objective reaches, and how many picks they share."""
    k, target = unit["k"], unit["goal"] == "target"
    noise = default_ridge(k, pool.vectors.shape[1], towards_target=target)
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
    """|A ∩ B| / |A ∪ B| of the picks before and after a small change, for covering, by scores and towards a target."""
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
