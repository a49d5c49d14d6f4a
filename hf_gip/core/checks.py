"""Argument checks: one sentence each, saying what is wrong, the value found and what to do."""

import math
from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor

TOO_LARGE = 10**18  # the first whole number that is not sure to fit into 64 bits, whatever it is added to


def shown(value: object) -> str:
    """A value found, in one line of at most 80 letters."""
    return " ".join(repr(value).split())[:80]


def check_k(k: object, n: int) -> None:
    """Raise unless `k` rows can be chosen from `n`.

    Raises:
        ValueError: If `k` is not a whole number between 1 and `n`.
    """
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= n:
        raise ValueError(f"`k` must be a whole number between 1 and the number of rows ({n}), got {shown(k)}.")


def check_count(name: str, value: object, *, optional: bool = False) -> None:
    """Raise unless `value` is a whole number from 1, or None where it may be.

    Raises:
        ValueError: If it is anything else, or too large for 64 bits.
    """
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(
            f"`{name}` must be a whole number of at least 1{' or None' if optional else ''}, got {shown(value)}."
        )
    if value >= TOO_LARGE:
        raise ValueError(f"`{name}` must be a whole number of at most 18 digits, got {shown(value)}.")


def check_amount(name: str, value: object, *, optional: bool = False) -> None:
    """Raise unless `value` is a finite number of at least 0, or None where it may be.

    Raises:
        ValueError: If it is anything else.
    """
    if not (value is None and optional) and not (is_number(value) and value >= 0):
        raise ValueError(
            f"`{name}` must be a number of at least 0{', or None' if optional else ''}, got {shown(value)}."
        )


def check_flag(name: str, value: object) -> None:
    """Raise unless `value` is True or False.

    Raises:
        TypeError: If it is anything else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be True or False, got {shown(value)}.")


def check_run(group: object, progress: object) -> None:
    """Raise unless processes can share the run and its progress can be told.

    Raises:
        TypeError: If `group` is no process group or `progress` cannot be called.
    """
    if group is not None and not isinstance(group, dist.ProcessGroup):
        raise TypeError(f"`group` must be a process group of `torch.distributed` or None, got {shown(group)}.")
    if progress is not None and not callable(progress):
        raise TypeError(f"`progress` must be a function or None, got {shown(progress)}.")


def check_device(device: Any) -> str:
    """The device asked for, or the best one here.

    Raises:
        ValueError: If CUDA was asked for and there is none, or the name is unknown.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError, ValueError):
        raise ValueError(f"`device` must be a torch device such as 'cpu' or 'cuda', got {shown(device)}.") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("`device` is 'cuda' but torch sees no GPU here: leave `device` out, or install a CUDA torch.")
    return device


def as_list(name: str, values: Any, what: str) -> list[Any]:
    """The elements of a sequence, tensor or array.

    Raises:
        TypeError: If it is none of these.
    """
    if isinstance(values, Sequence) and not isinstance(values, str | bytes):
        return list(values)
    if isinstance(listed := getattr(values, "tolist", lambda: None)(), list):
        return listed
    raise TypeError(f"`{name}` must be {what}, got {shown(values)}.")


def check_seed(seed: object) -> None:
    """Raise unless `seed` starts a random generator.

    Raises:
        ValueError: If it is no whole number, or too large for one.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or abs(seed) >= TOO_LARGE:
        raise ValueError(f"`seed` must be a whole number of at most 18 digits, got {shown(seed)}.")


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value` is a finite number, not True or False, that float64 can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def check_row(row: int) -> None:
    """Raise unless `row` is a number.

    Raises:
        TypeError: If not.
    """
    if isinstance(row, bool) or not isinstance(row, int):
        raise TypeError(f"`row` must be a position in the pool, such as 0, got {shown(row)}.")


def check_matrix(name: str, matrix: Tensor, width: int | None = None) -> None:
    """Raise unless `matrix` is a finite, non-empty, floating (rows, width) tensor.

    Raises:
        TypeError: If it is not a floating-point tensor.
        ValueError: If its shape is wrong or it holds NaN or infinity.
    """
    if not isinstance(matrix, Tensor) or not matrix.is_floating_point():
        found = matrix.dtype if isinstance(matrix, Tensor) else type(matrix).__name__
        raise TypeError(
            f"`{name}` must be a floating-point tensor, got {found}: convert it with `torch.as_tensor(…).float()`."
        )
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(
            f"`{name}` must be a non-empty matrix with one row per example, got shape {tuple(matrix.shape)}."
        )
    if width is not None and matrix.shape[1] != width:
        raise ValueError(
            f"`{name}` must have the features' width {width}, got {matrix.shape[1]}: embed both with the same encoder."
        )
    if matrix.sum().isfinite():  # as every NaN and infinity would show, an order faster; an overflow is looked into
        return
    finite = torch.isfinite(matrix).all(dim=1)
    if not bool(finite.all()):
        bad = torch.nonzero(~finite).flatten()
        raise ValueError(
            f"`{name}` must be finite, got NaN or infinity in {len(bad)} row(s), first in row {int(bad[0])}: "
            "drop or recompute them."
        )
