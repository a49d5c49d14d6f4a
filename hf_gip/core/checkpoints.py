"""Rows and targets at the checkpoints of a run: what GTP is given, checked."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hf_gip.core.checks import as_list, check_amount, check_count, check_matrix, is_number, shown
from hf_gip.core.rows import MemoryRows, Rows

RATES = "a list of learning rates, one per checkpoint"


def as_parts(trajectories: Tensor | Rows | Sequence[Tensor | Rows]) -> list[Rows]:
    """One `Rows` per checkpoint.

    Raises:
        TypeError: If something is neither a tensor nor `Rows`.
        ValueError: If there is none, or they differ in their number of rows.
    """
    parts: list[Rows] = []
    for part in each_checkpoint("trajectories", trajectories):
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
        given = each_checkpoint("target", target)
        if len(given) != len(parts):
            raise ValueError(f"`target` must have one tensor per checkpoint ({len(parts)}), got {len(given)}.")
        pieces = [piece[None] if isinstance(piece, Tensor) and piece.ndim == 1 else piece for piece in given]
        for piece, width in zip(pieces, widths, strict=True):
            check_matrix("target", piece, width)
    if len({len(piece) for piece in pieces}) > 1:
        raise ValueError(f"`target` must hold the same targets at every checkpoint, got {[len(p) for p in pieces]}.")
    return torch.cat([piece.double().cpu() * scale for piece, scale in zip(pieces, scales, strict=True)], dim=1)


def each_checkpoint(name: str, given: Any) -> list[Any]:
    """What is given for each checkpoint, in a list also where it is one thing.

    Raises:
        TypeError: If it is neither a tensor, nor rows on disk, nor several of them.
    """
    if isinstance(given, Tensor | Rows):
        return [given]
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise TypeError(f"`{name}` must be a tensor, or one per checkpoint in a list, got {shown(given)}.")
    return list(given)


def check_options(rates: Sequence[float] | None, checkpoints: int, ridge: float | None, max_passes: int) -> None:
    """Raise unless every option is in its range.

    Raises:
        TypeError: If `rates` is no list.
        ValueError: Naming the option, the value found and the range.
    """
    if rates is not None:
        check_rates(as_list("rates", rates, RATES), checkpoints)
    check_amount("ridge", ridge, optional=True)
    check_count("max_passes", max_passes)


def check_rates(rates: list[Any], checkpoints: int) -> None:
    """Raise unless there is a learning rate for every checkpoint, and one of them above 0.

    Raises:
        ValueError: If not.
    """
    if len(rates) != checkpoints:
        raise ValueError(f"`rates` must hold one learning rate per checkpoint ({checkpoints}), got {len(rates)}.")
    if not all(is_number(rate) and rate >= 0 for rate in rates) or not any(rates):
        raise ValueError(f"`rates` must be finite numbers of at least 0, not all 0, got {shown(rates)}.")
