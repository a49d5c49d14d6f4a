"""Compressive sampling with non-negative weights: the search behind GTP."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from hf_gip.core.nnls import nnls
from hf_gip.core.pool import SharedRows

SAME = 1e-12  # rows are copies of each other if 1 − cos² is at most this
EXACT = 1e-14  # a loss of this share of the target's energy is none
FALL = 1e-3  # a loss that falls by less than this share is as good as steady

Progress = Callable[[int, float], None]  # passes and residual so far


@dataclass(frozen=True, slots=True)
class Fit:
    """Rows with weights, and how well they match.

    Attributes:
        rows: Rows with weight, (s,).
        weights: Their weights for each target, (m, s), float64.
        targets: Their inner products with each target, (m, s), float64.
        loss: Σ ½‖b − Aᵀw‖² + ½ρ‖w‖².
        residual: ‖b − Aᵀw‖ over all targets, as a share of ‖b‖.
        ranking: Correlation of every row held here with the targets, (n,).
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


def pursue(
    pool: SharedRows, goals: Float[Tensor, "m d"], k: int, ridge: float, max_passes: int, progress: Progress | None
) -> Fit:
    """The best at most `k` rows found for `goals` (unit norm in all), rows of mean energy one."""
    scores = positive(pool.mine.products(goals))
    ranking, passes, width = scores, 1, 2 * k
    rows = torch.empty(0, dtype=torch.int64)
    weights = targets = goals.new_zeros(len(goals), 0)
    loss, residual, history = 0.5 * float(goals.square().sum()), 1.0, [1.0]
    start, known = loss, Known(pool)
    while loss > EXACT * start:
        fresh, gains = pool.leading(scores, rows, width)
        fresh = fresh[gains > 0]
        if not len(fresh):
            break
        joined = torch.cat([rows, fresh])
        step = pool.ranks.told(partial(refit, joined, *known.of(joined), goals, k, ridge))
        fall = (loss - step.loss) / loss
        if step.loss < loss:
            rows, weights, targets, loss, residual = step.rows, step.weights, step.targets, step.loss, step.residual
            history.append(residual)
        if progress is not None:
            progress(passes, residual)
        if fall < FALL:
            width //= 4
        if passes == max_passes or width < max(1, k // 8):
            break
        if step.loss == loss:
            scores, passes = positive(pool.mine.products(step.left)), passes + 1
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


class Known:
    """Rows read before and their inner products: of 3k rows in a step most were in the step before."""

    def __init__(self, pool: SharedRows) -> None:
        """Start from none."""
        self.pool = pool
        self.rows = torch.empty(0, dtype=torch.int64)
        self.values = torch.empty(0, pool.d, dtype=torch.float64)
        self.gram = torch.empty(0, 0, dtype=torch.float64)

    def of(self, rows: Int64[Tensor, " t"]) -> tuple[Float[Tensor, "t d"], Float[Tensor, "t t"]]:
        """The rows and their Gram matrix, float64; they replace those known."""
        where = torch.full((self.pool.n,), -1, dtype=torch.int64)
        where[self.rows] = torch.arange(len(self.rows))
        place = where[rows]
        old, new = torch.nonzero(place >= 0)[:, 0], torch.nonzero(place < 0)[:, 0]
        values = torch.empty(len(rows), self.pool.d, dtype=torch.float64)
        values[old], values[new] = self.values[place[old]], self.pool.rows(rows[new])
        gram = torch.empty(len(rows), len(rows), dtype=torch.float64)
        gram[old[:, None], old] = self.gram[place[old]][:, place[old]]
        fresh = values[new] @ values.T
        gram[new], gram[:, new] = fresh, fresh.T
        self.rows, self.values, self.gram = rows, values, gram
        return values, gram


def refit(
    rows: Int64[Tensor, " t"],
    values: Float[Tensor, "t d"],
    gram: Float[Tensor, "t t"],
    goals: Float[Tensor, "m d"],
    k: int,
    ridge: float,
) -> Step:
    """Fit the targets on `rows`, then let those go that are missed least, in steps, until `k` are left.

    A step lets go half of those too many, at least k/20, and fits the rest again.
    """
    targets = goals @ values.T
    if ridge:
        kept = distinct(gram)
        rows, values, targets = rows[kept], values[kept], targets[:, kept]
        gram = gram[kept][:, kept] + ridge * torch.eye(int(kept.sum()), dtype=torch.float64)
    kept = torch.arange(len(rows))
    weights = torch.stack([nnls(gram, target) for target in targets])
    while True:
        used = (weights > 0).any(0)
        kept, weights = kept[used], weights[:, used]
        excess = len(kept) - k
        if excess <= 0:
            break
        fewer = k + min(excess // 2, excess - min(excess, max(1, k // 20)))
        losses = loss_without(gram[kept][:, kept], weights)
        kept = kept[torch.sort(losses, descending=True, stable=True).indices[:fewer]]
        small = gram[kept][:, kept]
        weights = torch.stack([nnls(small, target, torch.arange(len(kept))) for target in targets[:, kept]])
    left = goals - weights @ values[kept]
    energy = float(left.square().sum())
    loss = 0.5 * energy + 0.5 * ridge * float(weights.square().sum())
    residual = (energy / float(goals.square().sum())) ** 0.5
    return Step(rows[kept], weights, targets[:, kept], loss, residual, left)


def loss_without(gram: Float[Tensor, "p p"], weights: Float[Tensor, "m p"]) -> Float[Tensor, " p"]:
    """What the loss rises by if a row leaves and the others are fitted again: ½ wᵢ² / (G⁻¹)ᵢᵢ, over all targets."""
    losses = torch.zeros(len(gram), dtype=torch.float64)
    for each in weights:
        inside = torch.nonzero(each > 0)[:, 0]
        factor = torch.linalg.cholesky_ex(gram[inside][:, inside])[0]
        root = torch.linalg.solve_triangular(factor, torch.eye(len(factor), dtype=torch.float64), upper=False)
        losses[inside] += 0.5 * each[inside].square() / root.square().sum(0)  # G⁻¹ = L⁻ᵀL⁻¹
    return losses


def positive(products: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """How much a row can lower the loss: the correlation with one target, the norm of the positive ones of several."""
    products = products.cpu()
    return products[:, 0] if products.shape[1] == 1 else torch.linalg.vector_norm(products.clamp(min=0), dim=1)


def distinct(gram: Float[Tensor, "t t"]) -> Bool[Tensor, " t"]:
    """Which rows are no copy, up to a positive factor, of an earlier row."""
    norms = gram.diagonal().sqrt().clamp(min=1e-300)
    cosines = gram / norms / norms[:, None]
    return ~(cosines > 1 - SAME / 2).triu_(1).any(0)
