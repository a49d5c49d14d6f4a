"""Gradient Trajectory Pursuit: few rows whose weighted gradients follow a target's along the whole training run."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.checks import check_k, check_matrix
from hf_gip.core.pursuit import Fit, distinct, pursue
from hf_gip.core.rows import MemoryRows, Rows, SideBySide
from hf_gip.core.selection import Selection

RIDGE = 1e-3


def gtp(
    trajectories: Tensor | Rows | Sequence[Tensor | Rows],
    target: Tensor | Sequence[Tensor] | None,
    k: int,
    *,
    rates: Sequence[float] | None = None,
    ridge: float | None = None,
    max_passes: int = 20,
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
    help fewer join, from the best fit seen; the run ends when not even k/8 do. Of exact copies of a row exactly one is
    chosen.

    Several targets (subtasks) are matched together: each has weights of its own, Σⱼ ½‖bⱼ − Aᵀwⱼ‖² is minimised, and
    the k rows are shared. `.weights` is Σⱼ wⱼ; the curve `weight_j` has each alone. Scale a target to count it more.

    Memory O(k (d + k)) besides the rows, which are read in place; time O(n d) a pass, 5 to 20 passes in all, and
    O(k² d + k³) for the fits.

    Args:
        trajectories: Gradients or projections of them, one row per example, (n, T·r); or one such matrix per
            checkpoint, (n, r) each; in memory or `Rows` on disk (a gradient store).
        target: What to match, (d,) or one row per target (m, d), d the width of all checkpoints together; or one
            such tensor per checkpoint. None: the mean of all rows, the full data's own trajectory.
        k: How many rows to choose.
        rates: η_c ≥ 0, the learning rate of each checkpoint. None: 1 for all.
        ridge: Penalty ½ρ‖w‖² with ρ = `ridge` · mean‖aᵢ‖². None: 0, but 0.001 where k exceeds the width, as then no
            single best w exists.
        max_passes: Passes over the rows at most.
        progress: Called after each pass with the number of passes and the residual so far, a share of the target.

    Returns:
        `k` rows by falling gain, with `.weights`. Row i's gain is ½ wᵢ aᵢᵀb: at the optimum their sum is exactly
        what the objective fell by (`.objective`), of `.total` = ½‖b‖². Where fewer than `k` rows can have weight the
        rest are the rows best correlated with the target, copies last, with weight 0; `record["notes"]` says so.

    Raises:
        TypeError: If a matrix is no floating-point tensor.
        ValueError: If a shape or value is wrong, or the rows or the target are all zero.
    """
    parts = as_parts(trajectories)
    check_options(rates, len(parts), ridge, max_passes)
    scales = [math.sqrt(rate) for rate in rates] if rates is not None else [1.0] * len(parts)
    check_k(k, parts[0].n)
    mean, energy = SideBySide(parts, scales).means()
    if energy == 0:
        raise ValueError(f"`trajectories` must hold at least one row that is not zero, got {parts[0].n} zero row(s).")
    goals = mean[None] if target is None else as_goals(target, parts, scales)
    size = float(torch.linalg.vector_norm(goals))
    if size == 0:
        raise ValueError("`target` must not be zero, got only zeros: there is no direction to match.")
    unit = math.sqrt(energy)
    pool = SideBySide(parts, [scale / unit for scale in scales])
    penalty = ridge if ridge is not None else (RIDGE if k > pool.d else 0.0)
    fit = pursue(pool, goals / size, k, penalty, max_passes, progress)
    parameters = {"k": k, "rates": list(rates) if rates is not None else None, "ridge": penalty, "targets": len(goals)}
    return as_selection(pool, fit, k, size, size / unit, parameters)


def as_selection(
    pool: SideBySide, fit: Fit, k: int, size: float, unit: float, parameters: dict[str, object]
) -> Selection:
    """The fit in the caller's units, rows by falling gain, filled up to `k`."""
    gains = 0.5 * (fit.weights * fit.targets).sum(0)
    order = torch.sort(gains, descending=True, stable=True).indices
    rows, weights, gains = fit.rows[order], fit.weights[:, order] * unit, gains[order] * size * size
    filled = fill(pool, rows, fit.ranking, k - len(rows))
    empty = torch.zeros(len(filled), dtype=torch.float64)
    weights = torch.cat([weights, empty.expand(len(weights), -1)], dim=1)
    notes = []
    if parameters["ridge"]:
        notes.append(f"a ridge of {parameters['ridge']:g} of the rows' mean energy kept the weights unique.")
    if len(filled):
        notes.append(
            f"{len(rows):,} of {k:,} rows match the target as well as this pool can; the other {len(filled):,} "
            "were added by their correlation with it, with weight 0."
        )
    record = {
        "method": "gtp",
        "parameters": parameters,
        "residual": fit.residual,
        "passes": fit.passes,
        "residuals": fit.history,
        "notes": notes,
    }
    curves = {f"weight_{number}": each for number, each in enumerate(weights)} if len(weights) > 1 else {}
    return Selection(
        torch.cat([rows, filled]),
        torch.cat([gains, empty]),
        total=0.5 * size * size,
        weights=weights.sum(0),
        record=record,
        curves=curves,
    )


def fill(
    pool: SideBySide, rows: Int64[Tensor, " s"], ranking: Float[Tensor, " n"], missing: int
) -> Int64[Tensor, " f"]:
    """The `missing` best ranked rows besides `rows`, copies of chosen rows last."""
    order = torch.sort(ranking, descending=True, stable=True).indices
    order = order[~torch.isin(order, rows)]
    if missing == 0:
        return order[:0]
    taken, copies = rows, order[:0]
    for batch in order.split(2 * missing):
        both = torch.cat([taken, batch])
        values = pool.rows(both)
        fresh = distinct(values @ values.T).cpu()[len(taken) :]
        taken, copies = torch.cat([taken, batch[fresh]]), torch.cat([copies, batch[~fresh]])
        if len(taken) >= len(rows) + missing:
            break
    return torch.cat([taken[len(rows) :], copies])[:missing]


def as_parts(trajectories: Tensor | Rows | Sequence[Tensor | Rows]) -> list[Rows]:
    """One `Rows` per checkpoint.

    Raises:
        TypeError: If something is neither a tensor nor `Rows`.
        ValueError: If there is none, or they differ in their number of rows.
    """
    given = [trajectories] if isinstance(trajectories, Tensor | Rows) else list(trajectories)
    parts: list[Rows] = []
    for part in given:
        if isinstance(part, Tensor):
            check_matrix("trajectories", part)
            parts.append(MemoryRows(part))
        elif isinstance(part, Rows):
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


def as_goals(target: Tensor | Sequence[Tensor], parts: list[Rows], scales: list[float]) -> Float[Tensor, "m d"]:
    """The targets, one a row, scaled as the rows are.

    Raises:
        ValueError: If the checkpoints are not those of the rows, or hold different numbers of targets.
    """
    widths = [part.d for part in parts]
    if isinstance(target, Tensor):
        whole = target if target.ndim > 1 else target[None]
        check_matrix("target", whole, sum(widths))
        pieces = list(whole.split(widths, dim=1))
    else:
        pieces = [piece if piece.ndim > 1 else piece[None] for piece in target]
        if len(pieces) != len(parts):
            raise ValueError(f"`target` must have one tensor per checkpoint ({len(parts)}), got {len(pieces)}.")
        for piece, width in zip(pieces, widths, strict=True):
            check_matrix("target", piece, width)
    if len({len(piece) for piece in pieces}) > 1:
        raise ValueError(f"`target` must hold the same targets at every checkpoint, got {[len(p) for p in pieces]}.")
    return torch.cat([piece.double().cpu() * scale for piece, scale in zip(pieces, scales, strict=True)], dim=1)


def check_options(rates: Sequence[float] | None, checkpoints: int, ridge: float | None, max_passes: int) -> None:
    """Raise unless every option is in its range.

    Raises:
        ValueError: Naming the option, the value found and the range.
    """
    if rates is not None:
        if len(rates) != checkpoints:
            raise ValueError(f"`rates` must hold one learning rate per checkpoint ({checkpoints}), got {len(rates)}.")
        if not all(math.isfinite(rate) and rate >= 0 for rate in rates) or not any(rates):
            raise ValueError(f"`rates` must be finite, at least 0 and not all 0, got {list(rates)!r}.")
    if ridge is not None and not (math.isfinite(ridge) and ridge >= 0):
        raise ValueError(f"`ridge` must be a number of at least 0, or None, got {ridge!r}.")
    if isinstance(max_passes, bool) or max_passes < 1:
        raise ValueError(f"`max_passes` must be a whole number of at least 1, got {max_passes!r}.")
