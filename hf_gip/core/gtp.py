"""Gradient Trajectory Pursuit: few rows whose weighted gradients follow a target's along the whole training run.

With aᵢ = (√η₁ gᵢ₁, …, √η_T gᵢ_T), the gradients of row i at the T checkpoints side by side, and b the target's in the
same way ([GTP](https://huggingface.co/papers/2410.16710)),

    min_w ½‖b − Aᵀw‖²   subject to   w ≥ 0,   at most k weights above 0.                                      (1)

`compressive_pursuit` is the loop: correlate, join the best rows, fit, prune; `fit_and_prune` is one step of it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from hf_gip.core.matrix import ConcatenatedMatrix, InMemoryMatrix, MatrixSource, ShardedMatrix
from hf_gip.core.nnls import nnls
from hf_gip.core.validation import (
    as_list,
    brief,
    check_group_and_progress,
    check_int,
    check_k,
    check_matrix,
    check_number,
    is_number,
)
from hf_gip.distributed import assert_equal_on_all, check_on_all, partition_rows, tensor_checksum
from hf_gip.selection import Selection

RIDGE = 1e-3
NEAR_COPY = 1e-7  # of a row 3e-4 rad from others in the fit only one is chosen: finer would be a choice by rounding
COPY = 1e-12  # rows are copies of each other if 1 − cos² is at most this
EXACT = 1e-14  # a loss of this share of the target's energy is none
MIN_FALL = 1e-3  # a loss that falls by less than this share is as good as steady
RATES = "a list of learning rates, one per checkpoint"


@torch.no_grad()
def gtp(
    trajectories: Tensor | MatrixSource | Sequence[Tensor | MatrixSource],
    target: Tensor | Sequence[Tensor] | None,
    k: int,
    *,
    learning_rates: Sequence[float] | None = None,
    ridge: float | None = None,
    max_passes: int = 20,
    group: dist.ProcessGroup | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Selection:
    r"""Choose `k` rows, with weights, whose weighted gradients match a target's at every checkpoint of a run.

    With aᵢ = (√η₁ gᵢ₁, …, √η_T gᵢ_T), the gradients of row i at the T checkpoints side by side, and b the target's in
    the same way ([GTP](https://huggingface.co/papers/2410.16710)),

        min_w ½‖b − Aᵀw‖²   subject to   w ≥ 0,   at most k weights above 0.

    Compressive sampling: u = A(b − Aᵀw) in one pass over the rows; the 2k rows of largest u (signed, as weights must
    not be negative) join those in use; non-negative least squares on these; the rows missed least go, in a few steps
    with a fit after each, until k are left. Missed is measured as ½ wᵢ² / (G⁻¹)ᵢᵢ, what the loss rises by if row i
    goes and the others are fitted again; by wᵢ alone the residual ends up to twice as large. Where 2k rows no longer
    help fewer join, from the best fit seen; the run ends when not even k/8 do. Of copies of a row, exact or within
    3e-4 rad, one is chosen.

    Several targets (subtasks) are matched together: each has weights of its own, Σⱼ ½‖bⱼ − Aᵀwⱼ‖² is minimized, and
    the k rows are shared. `.weights` is Σⱼ wⱼ; the curve `weight_j` has each alone. Scale a target to count it more.

    Memory O(k (d + k)) besides the rows, which are read in place; time O(n d) a pass, 5 to 20 passes in all, and
    O(k² d + k³) for the fits.

    Args:
        trajectories: Gradients or projections of them, one row per example, (n, T·r); or one such matrix per
            checkpoint, (n, r) each; in memory or a `MatrixSource` on disk (a gradient store).
        target: What to match, (d,) or one row per target (m, d), d the width of all checkpoints together; or one
            such tensor per checkpoint. None: the mean of all rows, the full data's own trajectory.
        k: How many rows to choose.
        learning_rates: η_c ≥ 0, the learning rate of each checkpoint, *optional*, defaults to 1 for all.
        ridge: Penalty ½ρ‖w‖² with ρ = `ridge` · mean‖aᵢ‖², *optional*, defaults to 0, but to 0.001 where k exceeds the
            width, as then no single best w exists.
        max_passes: Passes over the rows at most, *optional*, defaults to `20`.
        group: Processes that share the rows (`torch.distributed.group.WORLD` under `torchrun`), *optional*:
            `trajectories` holds this rank's share, rows are numbered through in rank order, and every rank returns the
            whole selection. Of a pass only each share's 2k best scores and the 2k best rows travel; the first rank
            fits the weights.
            A rank that ends makes the others fail; one that hangs does so within the group's `timeout`.
        progress: Called after each pass with the number of passes and the residual so far, a share of the target,
            *optional*.

    Returns:
        `k` rows by falling gain, with `.weights`. Row i's gain is ½ wᵢ aᵢᵀb: at the optimum their sum is exactly
        what the objective fell by (`.objective`), of `.total` = ½‖b‖². Where fewer than `k` rows can have weight the
        rest are the rows best correlated with the target, copies last, with weight 0; `record["notes"]` says so.

    Raises:
        TypeError: If a matrix is no floating-point tensor.
        ValueError: If a shape or value is wrong, the rows or the target are all zero, or ranks disagree.
    """
    check_group_and_progress(group, progress)

    def read_arguments() -> tuple[list[MatrixSource], list[float], Tensor | None]:
        parts = checkpoint_sources(trajectories)
        check_gtp_options(learning_rates, len(parts), ridge, max_passes)
        scales = [math.sqrt(rate) for rate in learning_rates] if learning_rates is not None else [1.0] * len(parts)
        return parts, scales, None if target is None else target_rows(target, parts, scales)

    parts, scales, targets = check_on_all(read_arguments, group)
    if group is not None:
        arguments = {
            "k": k,
            "learning_rates": learning_rates if learning_rates is None else list(learning_rates),
            "ridge": ridge,
            "max_passes": max_passes,
        }
        shapes = {"widths": [part.d for part in parts], "dtypes": [str(part.dtype) for part in parts]}
        assert_equal_on_all({**arguments, **shapes, "target": tensor_checksum(targets)}, group)
    partition = partition_rows(parts[0].n, group)
    k = check_k(k, partition.n)
    mean, energy = ShardedMatrix(ConcatenatedMatrix(parts, scales), partition).means()
    if energy == 0:
        raise ValueError(f"`trajectories` must hold at least one row that is not zero, got {partition.n} zero row(s).")
    targets = mean[None] if targets is None else targets
    norm = float(torch.linalg.vector_norm(targets))
    if norm == 0:
        raise ValueError("`target` must not be zero, got only zeros: there is no direction to match.")
    unit = math.sqrt(energy)
    pool = ShardedMatrix(ConcatenatedMatrix(parts, [scale / unit for scale in scales]), partition)
    penalty = float(ridge) if ridge is not None else (RIDGE if k > pool.d else 0.0)
    fit, history, ranking = compressive_pursuit(pool, targets / norm, k, penalty, max_passes, progress)
    gains = 0.5 * (fit.weights * fit.products).sum(0)
    order = torch.sort(gains, descending=True, stable=True).indices
    rows, gains, weights = fit.rows[order], gains[order] * norm * norm, fit.weights[:, order] * (norm / unit)
    filled = best_correlated(pool, rows, ranking, k - len(rows))
    zeros = torch.zeros(len(filled), dtype=torch.float64)
    weights = torch.cat([weights, zeros.expand(len(weights), -1)], dim=1)
    notes = []
    if penalty:
        notes.append(f"a ridge of {penalty:g} of the rows' mean energy kept the weights unique.")
    if len(filled):
        notes.append(
            f"{len(rows):,} of {k:,} rows match the target as well as this pool can; the other {len(filled):,} "
            "were added by their correlation with it, with weight 0."
        )
    rates_used = None if learning_rates is None else [float(rate) for rate in learning_rates]
    record = {
        "method": "gtp",
        "parameters": {"k": k, "learning_rates": rates_used, "ridge": penalty, "targets": len(targets)},
        "residual": fit.residual,
        "passes": history.passes,
        "residuals": history.residuals,
        "notes": notes,
    }
    curves = {f"weight_{number}": each for number, each in enumerate(weights)} if len(weights) > 1 else {}
    return Selection(
        torch.cat([rows, filled]),
        torch.cat([gains, zeros]),
        total=0.5 * norm * norm,
        weights=weights.sum(0),
        record=record,
        curves=curves,
    )


@dataclass(frozen=True, slots=True)
class Fit:
    """Rows with weights, and how well they match the targets.

    Attributes:
        rows: Rows with weight, (s,).
        weights: Their weights for each target, (m, s), float64.
        products: Their inner products with each target, (m, s), float64.
        loss: Σ ½‖b − Aᵀw‖² + ½ρ‖w‖².
        residual: ‖b − Aᵀw‖ over all targets, as a share of ‖b‖.
        unmatched: b − Aᵀw, (m, d).
    """

    rows: Int64[Tensor, " s"]
    weights: Float[Tensor, "m s"]
    products: Float[Tensor, "m s"]
    loss: float
    residual: float
    unmatched: Float[Tensor, "m d"]


@dataclass(slots=True)
class PursuitHistory:
    """Passes over all rows so far, and the residual after each that lowered it."""

    passes: int
    residuals: list[float]


def compressive_pursuit(
    pool: ShardedMatrix,
    targets: Float[Tensor, "m d"],
    k: int,
    ridge: float,
    max_passes: int,
    progress: Callable[[int, float], None] | None,
) -> tuple[Fit, PursuitHistory, Float[Tensor, " n"]]:
    """The best fit of at most `k` rows seen, and each local row's correlation with the targets.

    Args:
        pool: The rows, of mean energy one.
        targets: What to match, of norm one in all.
        k: How many rows may have weight.
        ridge: ρ.
        max_passes: Passes over the rows at most.
        progress: Called after each pass with the passes and the residual so far.
    """
    scores = ranking = correlation_norm(pool.local.products(targets))
    history, width, cache = PursuitHistory(1, [1.0]), 2 * k, GramCache(pool)
    empty = targets.new_zeros(len(targets), 0)
    start = 0.5 * float(targets.square().sum())
    best = Fit(torch.empty(0, dtype=torch.int64), empty, empty, start, 1.0, targets)
    while best.loss > EXACT * start:
        candidates, values = pool.top_rows(scores, best.rows, width)
        candidates = candidates[values > 0]
        if not len(candidates):
            break
        joined = torch.cat([best.rows, candidates])
        step = partial(fit_and_prune, joined, *cache.read(joined), targets, k, ridge)
        fit = pool.partition.broadcast_from_first(step)
        fall = (best.loss - fit.loss) / best.loss
        improved = fit.loss < best.loss
        if improved:
            best = fit
            history.residuals.append(best.residual)
        if progress is not None:
            progress(history.passes, best.residual)
        if fall < MIN_FALL:
            width //= 4
        if history.passes == max_passes or width < max(1, k // 8):
            break
        if improved:
            scores = correlation_norm(pool.local.products(best.unmatched))
            history.passes += 1
    return best, history, ranking


class GramCache:
    """Rows read before and their inner products: of 3k rows in a step most were in the step before."""

    def __init__(self, pool: ShardedMatrix) -> None:
        self.pool = pool
        self.rows = torch.empty(0, dtype=torch.int64)
        self.values = torch.empty(0, pool.d, dtype=torch.float64)
        self.gram = torch.empty(0, 0, dtype=torch.float64)

    def read(self, rows: Int64[Tensor, " t"]) -> tuple[Float[Tensor, "t d"], Float[Tensor, "t t"]]:
        """The rows and their Gram matrix, float64; they replace those in the cache."""
        position_of = torch.full((self.pool.n,), -1, dtype=torch.int64)
        position_of[self.rows] = torch.arange(len(self.rows))
        positions = position_of[rows]
        old, new = torch.nonzero(positions >= 0)[:, 0], torch.nonzero(positions < 0)[:, 0]
        values = torch.empty(len(rows), self.pool.d, dtype=torch.float64)
        values[old], values[new] = self.values[positions[old]], self.pool.rows(rows[new])
        gram = torch.empty(len(rows), len(rows), dtype=torch.float64)
        gram[old[:, None], old] = self.gram[positions[old]][:, positions[old]]
        products = values[new] @ values.T
        gram[new], gram[:, new] = products, products.T
        self.rows, self.values, self.gram = rows, values, gram
        return values, gram


def fit_and_prune(
    rows: Int64[Tensor, " t"],
    values: Float[Tensor, "t d"],
    gram: Float[Tensor, "t t"],
    targets: Float[Tensor, "m d"],
    k: int,
    ridge: float,
) -> Fit:
    """Fit the targets on `rows`, then let those go that are missed least, in steps, until `k` are left.

    A step lets go half of those too many, at least k/20, and fits the rest again.
    """
    products = targets @ values.T
    if ridge:
        distinct = is_no_copy(gram)
        rows, values, products = rows[distinct], values[distinct], products[:, distinct]
        gram = gram[distinct][:, distinct] + ridge * torch.eye(int(distinct.sum()), dtype=torch.float64)
    active = torch.arange(len(rows))
    weights = torch.stack([nnls(gram, product, dependent=NEAR_COPY) for product in products])
    while True:
        has_weight = (weights > 0).any(0)
        active, weights = active[has_weight], weights[:, has_weight]
        excess = len(active) - k
        if excess <= 0:
            break
        size = k + min(excess // 2, excess - min(excess, max(1, k // 20)))
        losses = loss_without(gram[active][:, active], weights)
        active = active[torch.sort(losses, descending=True, stable=True).indices[:size]]
        small = gram[active][:, active]
        start = torch.arange(len(active))
        fits = [nnls(small, product, start, dependent=NEAR_COPY) for product in products[:, active]]
        weights = torch.stack(fits)
    unmatched = targets - weights @ values[active]
    energy = float(unmatched.square().sum())
    loss = 0.5 * energy + 0.5 * ridge * float(weights.square().sum())
    residual = (energy / float(targets.square().sum())) ** 0.5
    return Fit(rows[active], weights, products[:, active], loss, residual, unmatched)


def loss_without(gram: Float[Tensor, "p p"], weights: Float[Tensor, "m p"]) -> Float[Tensor, " p"]:
    """What the loss rises by if a row leaves and the others are fitted again: ½ wᵢ² / (G⁻¹)ᵢᵢ, over all targets."""
    losses = torch.zeros(len(gram), dtype=torch.float64)
    for each in weights:
        positive = torch.nonzero(each > 0)[:, 0]
        factor = torch.linalg.cholesky_ex(gram[positive][:, positive])[0]
        inverse = torch.linalg.solve_triangular(factor, torch.eye(len(factor), dtype=torch.float64), upper=False)
        losses[positive] += 0.5 * each[positive].square() / inverse.square().sum(0)  # G⁻¹ = L⁻ᵀL⁻¹
    return losses


def correlation_norm(products: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """How much a row can lower the loss: the correlation with one target, the norm of the positive ones of several."""
    products = products.cpu()
    return products[:, 0] if products.shape[1] == 1 else torch.linalg.vector_norm(products.clamp(min=0), dim=1)


def is_no_copy(gram: Float[Tensor, "t t"]) -> Bool[Tensor, " t"]:
    """Which rows are no copy, up to a positive factor, of an earlier row."""
    norms = gram.diagonal().sqrt().clamp(min=1e-300)
    cosines = gram / norms / norms[:, None]
    return ~(cosines > 1 - COPY / 2).triu_(1).any(0)


def best_correlated(
    pool: ShardedMatrix, chosen: Int64[Tensor, " s"], ranking: Float[Tensor, " n"], count: int
) -> Int64[Tensor, " f"]:
    """The `count` best ranked rows besides the chosen ones, copies of chosen rows last."""
    rows, excluded, copies = chosen, chosen, chosen[:0]
    while len(rows) < len(chosen) + count:
        batch = pool.top_rows(ranking, excluded, 2 * count)[0]
        if not len(batch):
            break
        values = pool.rows(torch.cat([rows, batch]))
        distinct = is_no_copy(values @ values.T)[len(rows) :]
        rows, excluded = torch.cat([rows, batch[distinct]]), torch.cat([excluded, batch])
        copies = torch.cat([copies, batch[~distinct]])
    return torch.cat([rows[len(chosen) :], copies])[:count]


def checkpoint_sources(trajectories: Tensor | MatrixSource | Sequence[Tensor | MatrixSource]) -> list[MatrixSource]:
    """One matrix per checkpoint.

    Raises:
        TypeError: If something is neither a tensor nor a `MatrixSource`.
        ValueError: If there is none, or they differ in their number of rows.
    """
    parts: list[MatrixSource] = []
    for part in per_checkpoint("trajectories", trajectories):
        if isinstance(part, Tensor):
            check_matrix("trajectories", part)
            parts.append(InMemoryMatrix(part.detach()))
        elif isinstance(part, MatrixSource):
            parts.append(part)
        else:
            raise TypeError(
                f"`trajectories` must be tensors or rows on disk, got {type(part).__name__}: convert it with "
                "`torch.as_tensor(…).float()`."
            )
    if not parts:
        raise ValueError("`trajectories` must hold at least one checkpoint, got none.")
    counts = [part.n for part in parts]
    if len(set(counts)) != 1:
        raise ValueError(f"`trajectories` must hold the same rows at every checkpoint, got {counts} rows.")
    return parts


def target_rows(
    target: Tensor | Sequence[Tensor], parts: Sequence[MatrixSource], scales: Sequence[float]
) -> Float[Tensor, "m d"]:
    """The targets, one a row, scaled as the rows are.

    Raises:
        ValueError: If the checkpoints are not those of the rows, or hold different numbers of targets.
    """
    widths = [part.d for part in parts]
    if isinstance(target, Tensor):
        whole = target if target.ndim > 1 else target[None]
        check_matrix("target", whole, sum(widths))
        columns = list(whole.split(widths, dim=1))
    else:
        columns = per_checkpoint("target", target)
        if len(columns) != len(parts):
            raise ValueError(f"`target` must have one tensor per checkpoint ({len(parts)}), got {len(columns)}.")
        columns = [each[None] if isinstance(each, Tensor) and each.ndim == 1 else each for each in columns]
        for each, width in zip(columns, widths, strict=True):
            check_matrix("target", each, width)
    if len({len(each) for each in columns}) > 1:
        counts = [len(each) for each in columns]
        raise ValueError(f"`target` must hold the same targets at every checkpoint, got {counts}.")
    return torch.cat([each.detach().double().cpu() * s for each, s in zip(columns, scales, strict=True)], dim=1)


def per_checkpoint(name: str, value: Any) -> list[Any]:
    """One element per checkpoint, in a list also where there is one checkpoint.

    Raises:
        TypeError: If it is neither a tensor, nor rows on disk, nor several of them.
    """
    if isinstance(value, Tensor | MatrixSource):
        return [value]
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise TypeError(f"`{name}` must be a tensor, or one per checkpoint in a list, got {brief(value)}.")
    return list(value)


def check_gtp_options(
    learning_rates: Sequence[float] | None, checkpoints: int, ridge: float | None, max_passes: int
) -> None:
    """Raise unless every option is in its range.

    Raises:
        TypeError: If `learning_rates` is no list.
        ValueError: Naming the option, the value found and the range.
    """
    if learning_rates is not None:
        check_rates(as_list("learning_rates", learning_rates, RATES), checkpoints)
    check_number("ridge", ridge, optional=True)
    check_int("max_passes", max_passes)


def check_rates(learning_rates: Sequence[Any], checkpoints: int) -> None:
    """Raise unless there is a learning rate for every checkpoint, and one of them above 0.

    Raises:
        ValueError: If not.
    """
    if len(learning_rates) != checkpoints:
        raise ValueError(
            f"`learning_rates` must hold one learning rate per checkpoint ({checkpoints}), got {len(learning_rates)}."
        )
    if not all(is_number(rate) and rate >= 0 for rate in learning_rates) or not any(learning_rates):
        raise ValueError(
            f"`learning_rates` must be finite numbers of at least 0, not all 0, got {brief(learning_rates)}."
        )
