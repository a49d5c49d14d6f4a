"""LESS: the rows whose gradients point the target's way, each judged alone."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hf_gip.core.checkpoints import RATES, check_rates, each_checkpoint
from hf_gip.core.checks import as_list, check_k, check_matrix, shown
from hf_gip.core.rows import Rows, check_rows, precision
from hf_gip.core.selection import Selection


def less(
    trajectories: Tensor | Rows | Sequence[Tensor | Rows],
    target: Tensor | Sequence[Tensor],
    k: int,
    *,
    rates: Sequence[float] | None = None,
    subtasks: Sequence[int] | None = None,
) -> Selection:
    """Choose the `k` rows of highest influence ([LESS](https://huggingface.co/papers/2402.04333)).

    Row i's score is max_t mean_{j∈t} Σ_c w_c cos(gᵢ_c, g_jc): cosines with every target row j of a subtask t at every
    checkpoint c, weighted by the learning rates w_c (scaled to sum 1), meaned over the subtask's rows, and the
    largest over the subtasks. No row knows of another, so near copies are chosen together. O(n m d), one pass.

    Args:
        trajectories: Gradients or projections of them, one matrix (n, d) per checkpoint, or one for one checkpoint;
            in memory or `Rows` on disk.
        target: Gradients of the target rows at the same checkpoints, (m, d) each.
        k: How many rows to choose.
        rates: Learning rate of each checkpoint. None: equal weights.
        subtasks: Number of the subtask of each target row, (m,). None: all are one.

    Returns:
        The rows by falling score, of equals the lower first; `.gains` are the scores.

    Raises:
        TypeError: If a matrix is no floating-point tensor.
        ValueError: If a shape or value is wrong.
    """
    parts, goals = paired(trajectories, target)
    check_k(k, length(parts[0]))
    weights = [1.0 / len(parts)] * len(parts) if rates is None else as_list("rates", rates, RATES)
    check_rates(weights, len(parts))
    groups = [0] * len(goals[0]) if subtasks is None else as_list("subtasks", subtasks, "a list of whole numbers")
    if len(groups) != len(goals[0]) or not all(isinstance(group, int) for group in groups):
        raise ValueError(
            f"`subtasks` must hold one whole number per target row ({len(goals[0])}), got {shown(groups)}."
        )
    names = torch.tensor([sorted(set(groups)).index(group) for group in groups])
    share = torch.nn.functional.one_hot(names).double()
    means = (share / share.sum(0)).T  # (subtasks, m)
    scores = torch.zeros(length(parts[0]), len(means), dtype=torch.float64)
    for part, goal, weight in zip(parts, goals, weights, strict=True):
        direction = means @ unit(goal.double().cpu())
        scores += weight / sum(weights) * cosines(part, direction)
    return top(scores.max(dim=1).values, k, {"method": "less", "parameters": {"k": k, "rates": weights}})


def top(scores: Float[Tensor, " n"], k: int, record: dict[str, object]) -> Selection:
    """The `k` largest scores, of equals the lower row first."""
    order = torch.sort(scores, descending=True, stable=True).indices[:k]
    return Selection(order, scores[order], record=record)


def cosines(part: Tensor | Rows, directions: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """⟨x̂ᵢ, dⱼ⟩ for unit rows x̂ᵢ, float64, in one walk; 0 for rows that are zero.

    Raises:
        ValueError: If a row is not finite.
    """
    found = []
    for start, chunk in [(0, part)] if isinstance(part, Tensor) else part.chunks():
        rows = unit(chunk.to(precision(chunk.dtype)))
        if not bool(rows.isfinite().all()):
            bad = start + int(torch.nonzero(~rows.isfinite().all(1))[0])
            raise ValueError(
                f"`trajectories` must be finite, got NaN or infinity, first in row {bad}: drop such rows."
            )
        found.append((rows @ directions.to(rows).T).double().cpu())
    return torch.cat(found)


def unit(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows over their norms; zero rows stay zero."""
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(norms == 0, 1, norms)


def length(part: Tensor | Rows) -> int:
    """Number of rows."""
    return len(part) if isinstance(part, Tensor) else part.n


def paired(
    trajectories: Tensor | Rows | Sequence[Tensor | Rows], target: Tensor | Sequence[Tensor]
) -> tuple[list[Tensor | Rows], list[Tensor]]:
    """The rows and the target at each checkpoint.

    Raises:
        TypeError: If one of them is no matrix.
        ValueError: If the checkpoints of the two differ.
    """
    parts, goals = each_checkpoint("trajectories", trajectories), each_checkpoint("target", target)
    if len(parts) != len(goals) or not parts:
        raise ValueError(
            f"`target` must have one matrix per checkpoint of `trajectories` ({len(parts)}), got {len(goals)}."
        )
    for part, goal in zip(parts, goals, strict=True):
        check_matrix("target", goal, check_rows("trajectories", part)[1])
    if len({length(part) for part in parts}) > 1 or len({len(goal) for goal in goals}) > 1:
        raise ValueError(
            "`trajectories` and `target` must hold the same rows at every checkpoint, got "
            f"{[length(part) for part in parts]} and {[len(goal) for goal in goals]} rows."
        )
    return parts, goals
