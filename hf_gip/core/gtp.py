"""Gradient Trajectory Pursuit: few rows whose weighted gradients follow a target's along the whole training run."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.checkpoints import as_goals, as_parts, check_options
from hf_gip.core.checks import check_k, check_run
from hf_gip.core.engine.ranks import admit, agree, fingerprint, shared
from hf_gip.core.pool import SharedRows
from hf_gip.core.pursuit import Fit, distinct, pursue
from hf_gip.core.rows import Rows, SideBySide
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
        group: Processes that share the rows (`torch.distributed.group.WORLD` under `torchrun`): `trajectories` holds
            this rank's share, rows are numbered through in rank order, and every rank returns the whole selection.
            Of a pass only each share's 2k best scores and the 2k best rows travel; the first rank fits the weights.
            A rank that ends makes the others fail; one that hangs does so within the group's `timeout`.
        progress: Called after each pass with the number of passes and the residual so far, a share of the target.

    Returns:
        `k` rows by falling gain, with `.weights`. Row i's gain is ½ wᵢ aᵢᵀb: at the optimum their sum is exactly
        what the objective fell by (`.objective`), of `.total` = ½‖b‖². Where fewer than `k` rows can have weight the
        rest are the rows best correlated with the target, copies last, with weight 0; `record["notes"]` says so.

    Raises:
        TypeError: If a matrix is no floating-point tensor.
        ValueError: If a shape or value is wrong, the rows or the target are all zero, or ranks disagree.
    """
    check_run(group, progress)
    parts, scales, goals = _checked(trajectories, target, rates, ridge, max_passes, group)
    if group is not None:
        told = {"k": k, "rates": rates if rates is None else list(rates), "ridge": ridge, "max_passes": max_passes}
        widths = {"widths": [part.d for part in parts], "dtypes": [str(part.dtype) for part in parts]}
        agree({**told, **widths, "target": fingerprint(goals)}, group)
    ranks = shared(parts[0].n, group)
    check_k(k, ranks.n)
    mean, energy = SharedRows(SideBySide(parts, scales), ranks).means()
    if energy == 0:
        raise ValueError(f"`trajectories` must hold at least one row that is not zero, got {ranks.n} zero row(s).")
    goals = mean[None] if goals is None else goals
    size = float(torch.linalg.vector_norm(goals))
    if size == 0:
        raise ValueError("`target` must not be zero, got only zeros: there is no direction to match.")
    unit = math.sqrt(energy)
    pool = SharedRows(SideBySide(parts, [scale / unit for scale in scales]), ranks)
    penalty = float(ridge) if ridge is not None else (RIDGE if k > pool.d else 0.0)
    fit = pursue(pool, goals / size, k, penalty, max_passes, progress)
    parameters = {"k": k, "rates": list(rates) if rates is not None else None, "ridge": penalty, "targets": len(goals)}
    return as_selection(pool, fit, k, size, size / unit, parameters)


def _checked(
    trajectories: Tensor | Rows | Sequence[Tensor | Rows],
    target: Tensor | Sequence[Tensor] | None,
    rates: Sequence[float] | None,
    ridge: float | None,
    max_passes: int,
    group: dist.ProcessGroup | None,
) -> tuple[list[Rows], list[float], Float[Tensor, "m d"] | None]:
    """Rows, scales and targets per checkpoint; all ranks end with the one whose arguments cannot be used.

    Raises:
        TypeError: If a matrix is no floating-point tensor.
        ValueError: If a shape or value is wrong.
    """
    try:
        parts = as_parts(trajectories)
        check_options(rates, len(parts), ridge, max_passes)
        scales = [math.sqrt(rate) for rate in rates] if rates is not None else [1.0] * len(parts)
        goals = None if target is None else as_goals(target, parts, scales)
    except (TypeError, ValueError) as error:
        if group is not None:
            admit(str(error), group)
        raise
    if group is not None:
        admit(None, group)
    return parts, scales, goals


def as_selection(
    pool: SharedRows, fit: Fit, k: int, size: float, unit: float, parameters: dict[str, object]
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
    pool: SharedRows, rows: Int64[Tensor, " s"], ranking: Float[Tensor, " n"], missing: int
) -> Int64[Tensor, " f"]:
    """The `missing` best ranked rows besides `rows`, copies of chosen rows last."""
    taken, seen, copies = rows, rows, rows[:0]
    while len(taken) < len(rows) + missing:
        batch = pool.leading(ranking, seen, 2 * missing)[0]
        if not len(batch):
            break
        values = pool.rows(torch.cat([taken, batch]))
        fresh = distinct(values @ values.T)[len(taken) :]
        taken, seen, copies = (
            torch.cat([taken, batch[fresh]]),
            torch.cat([seen, batch]),
            torch.cat([copies, batch[~fresh]]),
        )
    return torch.cat([taken[len(rows) :], copies])[:missing]
