"""Every method as a function of a pool, a budget and a seed; the budget is the number of rows."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hf_gip import gip, gtp, less, rds, spice
from hf_gip.core.queries import default_ridge, precision_from_scores

from .baselines import facility_location, k_center
from .model_features import ModelFeatures
from .pools import Pool

SEEDED = ("random",)  # drawn several times per pool
WINDOW = 120  # SPICE's own


def select(method: str, pool: Pool, features: ModelFeatures, k: int, seed: int) -> Tensor:
    """The rows of `pool` that a method chooses, as positions in it.

    Raises:
        KeyError: If there is no such method.
    """
    selectors: dict[str, Callable[[], Tensor]] = {
        "random": lambda: torch.randperm(len(pool.members), generator=torch.Generator().manual_seed(seed))[:k],
        "longest": lambda: top_k(pool.lengths.double(), k),
        "top-k score": lambda: top_k(precision_from_scores(pool.scores), k),
        "nearest to the mean query": lambda: top_k(pool.vectors @ pool.queries.vectors.mean(0), k),
        "RDS+": lambda: rds(pool.vectors, pool.queries.vectors, k).indices,
        "facility location": lambda: facility_location(pool.vectors, k),
        "k-center": lambda: k_center(pool.vectors, k, seed),
        "greedy DPP": lambda: spice(pool.vectors, k, alpha=10.0, absolute_alpha=True, conflict_penalty=0.0).indices,
    }
    if method in selectors:
        return selectors[method]()
    if method in SKETCH_WIDTHS:
        return select_by_gradients("GTP target", pool, fold_sketch(features, SKETCH_WIDTHS[method]), k)
    return (select_by_gip if method.startswith("GIP") else select_by_gradients)(method, pool, features, k)


GIP_OPTIONS: dict[str, dict[str, Any]] = {
    "GIP cover": {},
    "GIP cover, information": {"objective": "information"},
    "GIP scores": {"scores": True},
    "GIP target": {"target": True},
    "GIP target, information": {"target": True, "objective": "information"},
    "GIP target, matching": {"target": True, "pursuit": "matching"},
    "GIP target + scores": {"target": True, "scores": True},
}


def select_by_gip(method: str, pool: Pool, features: ModelFeatures, k: int) -> Tensor:
    """GIP as `gip_select` calls it, or on gradients in place of texts."""
    if method == "GIP target, gradients":
        rows, queries = unit_rows(features.gradients[0][pool.members]), unit_rows(features.queries[pool.task][0])
        noise = default_ridge(k, rows.shape[1], towards_target=True)
        return gip(rows, queries, k, noise=noise).indices
    return gip_with(pool, k, **GIP_OPTIONS[method])


def gip_with(
    pool: Pool,
    k: int,
    *,
    target: bool = False,
    scores: bool = False,
    quality: float = 1.0,
    noise: float | None = None,
    **options: Any,
) -> Tensor:
    """GIP on sentence vectors with the defaults of `gip_select`."""
    if noise is None:
        noise = default_ridge(k, pool.vectors.shape[1], towards_target=target)
    precision = precision_from_scores(pool.scores, quality=quality) if scores else None
    if precision is not None:
        noise *= float(precision.square().mean())
    queries = pool.queries.vectors if target else None
    return gip(pool.vectors, queries, k, noise=noise, precision=precision, **options).indices


def select_by_gradients(method: str, pool: Pool, features: ModelFeatures, k: int) -> Tensor:
    """Methods that look at the small model's gradients; SPICE's proxy stays as it is.

    Raises:
        KeyError: If there is no such method.
    """
    rows = [each[pool.members] for each in features.gradients]
    queries = list(features.queries[pool.task])
    scale = float(rows[0].square().sum(dim=1).mean())
    selectors: dict[str, Callable[[], Tensor]] = {
        "LESS": lambda: less(rows, queries, k).indices,
        "SPICE windows": lambda: spice(rows[0], k, alpha=1 / scale, absolute_alpha=True, window=WINDOW).indices,
        "SPICE windows, unit length": lambda: (
            spice(unit_rows(rows[0]), k, alpha=1.0, absolute_alpha=True, window=WINDOW).indices
        ),
        "SPICE global": lambda: spice(rows[0], k, alpha=1 / scale, absolute_alpha=True).indices,
        "GTP target": lambda: gtp(rows, [each.mean(0) for each in queries], k).indices,
        "GTP full data": lambda: gtp(rows, None, k).indices,
    }
    return selectors[method]()


def fold_sketch(features: ModelFeatures, dims: int) -> ModelFeatures:
    """The same gradients through fewer numbers: sums of every `dims`-th number of a count sketch are one, too."""

    def folded(rows: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        first, second = (each.unflatten(1, (-1, dims)).sum(1) for each in rows)
        return first, second

    queries = {task: folded(rows) for task, rows in features.queries.items()}
    return replace(features, gradients=folded(features.gradients), queries=queries)


def top_k(values: Tensor, k: int) -> Tensor:
    """The `k` largest, of equals the first."""
    return torch.sort(values, descending=True, stable=True).indices[:k]


def unit_rows(rows: Tensor) -> Tensor:
    """Rows of length one."""
    return torch.nn.functional.normalize(rows)


UNTARGETED = ("longest", "top-k score", "facility location", "k-center", "greedy DPP")
TARGETED = ("nearest to the mean query", "RDS+", "LESS")
SPICE = ("SPICE windows", "SPICE windows, unit length", "SPICE global")
OURS = (*GIP_OPTIONS, "GIP target, gradients", *SPICE, "GTP target", "GTP full data")
SKETCH_WIDTHS = {f"GTP target, {dims:,} numbers": dims for dims in (512, 1_024, 2_048)}  # not of 4,096
METHODS = ("random", *UNTARGETED, *TARGETED, *OURS)
