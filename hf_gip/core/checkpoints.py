"""Rows and targets at the checkpoints of a run: what GTP is given, checked."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hf_gip.core.checks import check_matrix
from hf_gip.core.rows import MemoryRows, Rows


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
