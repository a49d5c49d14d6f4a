"""Compressive sampling with non-negative weights: the search behind GTP."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from hf_gip.core.nnls import nnls
from hf_gip.core.rows import SideBySide

SAME = 1e-12  # rows are copies of each other if 1 − cos² is at most this
EXACT = 1e-14  # a loss of this share of the target's energy is none
FALL = 1e-3  # a loss that falls by less than this share is as good as steady


@dataclass(frozen=True, slots=True)
class Fit:
    """Rows with weights, and how well they match.

    Attributes:
        rows: Rows with weight, (s,).
        weights: Their weights for each target, (m, s), float64.
        targets: Their inner products with each target, (m, s), float64.
        loss: Σ ½‖b − Aᵀw‖² + ½ρ‖w‖².
        residual: ‖b − Aᵀw‖ over all targets, as a share of ‖b‖.
        ranking: Correlation of every row with the targets, (n,).
        passes: Passes over all rows so far.
        history: `residual` after each pass.
    """

    rows: Int64[Tensor, " s"]
    weights: Float[Tensor, "m s"]
    targets: Float[Tensor, "m s"]
    loss: float
    residual: float
    ranking: Float[Tensor, " n"]
    passes: int
    history: list[float]


def pursue(pool: SideBySide, goals: Float[Tensor, "m d"], k: int, ridge: float, max_passes: int) -> Fit:
    """The best at most `k` rows found for `goals` (unit norm in all), rows of mean energy one."""
    scores = positive(pool.products(goals))
    ranking, passes, width = scores, 1, 2 * k
    rows = torch.empty(0, dtype=torch.int64)
    weights = targets = goals.new_zeros(len(goals), 0)
    loss, residual, history = 0.5 * float(goals.square().sum()), 1.0, [1.0]
    start = loss
    while loss > EXACT * start:
        fresh = best(scores, rows, width)
        if not len(fresh):
            break
        step = refit(pool, goals, torch.cat([rows, fresh]), k, ridge)
        fall = (loss - step.loss) / loss
        if step.loss < loss:
            rows, weights, targets, loss, residual = step.rows, step.weights, step.targets, step.loss, step.residual
            history.append(residual)
        if fall < FALL:
            width //= 4
        if passes == max_passes or width < max(1, k // 8):
            break
        if step.loss == loss:
            scores, passes = positive(pool.products(step.left)), passes + 1
    return Fit(rows, weights, targets, loss, residual, ranking, passes, history)


@dataclass(frozen=True, slots=True)
class Step:
    """One fit of some rows: as in `Fit`, and what is left of the targets."""

    rows: Int64[Tensor, " s"]
    weights: Float[Tensor, "m s"]
    targets: Float[Tensor, "m s"]
    loss: float
    residual: float
    left: Float[Tensor, "m d"]


def refit(pool: SideBySide, goals: Float[Tensor, "m d"], rows: Int64[Tensor, " t"], k: int, ridge: float) -> Step:
    """Fit the targets on `rows`, keep the `k` with the largest shares and fit these again."""
    values = pool.rows(rows).cpu()
    gram = values @ values.T
    targets = goals @ values.T
    if ridge:
        kept = distinct(gram)
        rows, values, targets = rows[kept], values[kept], targets[:, kept]
        gram = gram[kept][:, kept] + ridge * torch.eye(int(kept.sum()), dtype=torch.float64)
    every = torch.stack([nnls(gram, target) for target in targets])
    share = torch.linalg.vector_norm(every, dim=0) * gram.diagonal().sqrt()
    order = torch.sort(share, descending=True, stable=True).indices[:k]
    kept = order[share[order] > 0]
    if int((share > 0).sum()) > k:
        small = gram[kept][:, kept]
        weights = torch.stack([nnls(small, target) for target in targets[:, kept]])
        used = (weights > 0).any(0)
        kept, weights = kept[used], weights[:, used]
    else:
        weights = every[:, kept]
    left = goals - weights @ values[kept]
    energy = float(left.square().sum())
    loss = 0.5 * energy + 0.5 * ridge * float(weights.square().sum())
    residual = (energy / float(goals.square().sum())) ** 0.5
    return Step(rows[kept], weights, targets[:, kept], loss, residual, left)


def positive(products: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """How much a row can lower the loss: the correlation with one target, the norm of the positive ones of several."""
    products = products.cpu()
    return products[:, 0] if products.shape[1] == 1 else torch.linalg.vector_norm(products.clamp(min=0), dim=1)


def best(scores: Float[Tensor, " n"], rows: Int64[Tensor, " s"], width: int) -> Int64[Tensor, " f"]:
    """The `width` rows of largest positive score besides `rows`, the lower of equals first."""
    open_to = scores > 0
    open_to[rows] = False
    candidates = torch.nonzero(open_to)[:, 0]
    order = torch.sort(scores[candidates], descending=True, stable=True).indices[:width]
    return candidates[order]


def distinct(gram: Float[Tensor, "t t"]) -> Bool[Tensor, " t"]:
    """Which rows are no copy, up to a positive factor, of an earlier row."""
    norms = gram.diagonal().sqrt().clamp(min=1e-300)
    cosines = gram / norms / norms[:, None]
    return ~(cosines > 1 - SAME / 2).triu_(1).any(0)
