"""Argument checks: one sentence each, saying what is wrong, the value found and what to do."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor

from hf_gip.distributed import local_device

TOO_LARGE = 10**18  # the first whole number that is not sure to fit into 64 bits, whatever it is added to


def brief(value: object) -> str:
    """A value in one line of at most 80 letters, for a message."""
    return " ".join(repr(value).split())[:80]


def is_int(value: object) -> TypeGuard[int]:
    """Whether `value` is a whole number, Python's or numpy's, not True or False."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value` is a finite number, Python's or numpy's, not True or False, that float64 can hold."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def check_int(name: str, value: object, low: int = 1, *, optional: bool = False) -> None:
    """Raise unless `value` is a whole number from `low`, or None where it may be.

    Raises:
        ValueError: If it is anything else, or too large for 64 bits.
    """
    if value is None and optional:
        return
    if not is_int(value) or value < low:
        or_none = " or None" if optional else ""
        raise ValueError(f"`{name}` must be a whole number of at least {low}{or_none}, got {brief(value)}.")
    if value >= TOO_LARGE:
        raise ValueError(f"`{name}` must be a whole number of at most 18 digits, got {brief(value)}.")


def check_number(name: str, value: object, low: float = 0, *, optional: bool = False) -> None:
    """Raise unless `value` is a finite number from `low`, or None where it may be.

    Raises:
        ValueError: If it is anything else.
    """
    if not (value is None and optional) and not (is_number(value) and value >= low):
        or_none = ", or None" if optional else ""
        raise ValueError(f"`{name}` must be a number of at least {low}{or_none}, got {brief(value)}.")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise unless `value` is one of `choices`.

    Raises:
        ValueError: If it is anything else.
    """
    if not isinstance(value, str) or value not in choices:
        names = " or ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"`{name}` must be {names}, got {brief(value)}.")


def check_type(name: str, value: object, kind: Any, described: str, advice: str = "") -> None:
    """Raise unless `value` is of the `kind` (as for `isinstance`) that `described` names in words.

    Raises:
        TypeError: If it is of another; the message ends with `advice`, such as `": load it first"`.
    """
    if not isinstance(value, kind):
        raise TypeError(f"`{name}` must be {described}, got {type(value).__name__}{advice}.")


def check_fraction(name: str, value: object, described: str) -> None:
    """Raise unless `value` is a number above 0 and at most 1, which `described` says in words.

    Raises:
        ValueError: If it is anything else.
    """
    if not is_number(value) or not 0 < value <= 1:
        raise ValueError(f"`{name}` must be {described}, got {brief(value)}.")


def check_bool(name: str, value: object) -> None:
    """Raise unless `value` is True or False.

    Raises:
        TypeError: If it is anything else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be True or False, got {brief(value)}.")


def check_seed(seed: object) -> None:
    """Raise unless `seed` starts a random generator.

    Raises:
        ValueError: If it is no whole number, or too large for one.
    """
    if not is_int(seed) or abs(seed) >= TOO_LARGE:
        raise ValueError(f"`seed` must be a whole number of at most 18 digits, got {brief(seed)}.")


def check_k(k: object, n: int) -> int:
    """`k` as Python's own number; raise unless `k` rows can be chosen from `n`.

    Raises:
        ValueError: If `k` is not a whole number between 1 and `n`.
    """
    if not is_int(k) or not 1 <= k <= n:
        raise ValueError(f"`k` must be a whole number between 1 and the number of rows ({n}), got {brief(k)}.")
    return int(k)


def check_group_and_progress(group: object, progress: object) -> None:
    """Raise unless processes can share the run and its progress can be reported.

    Raises:
        TypeError: If `group` is no process group or `progress` cannot be called.
    """
    if group is not None and not isinstance(group, dist.ProcessGroup):
        raise TypeError(f"`group` must be a process group of `torch.distributed` or None, got {brief(group)}.")
    if progress is not None and not callable(progress):
        raise TypeError(f"`progress` must be a function or None, got {brief(progress)}.")


def check_device(device: Any, *, several: bool = False) -> Any:
    """The device named, or where none is, the best one of this machine; a list of them where `several` may work.

    Raises:
        ValueError: If CUDA was named and there is none, or the name is unknown.
    """
    if device is None:
        return local_device()
    try:
        if several and isinstance(device, list | tuple) and device:
            return [check_device(each) for each in device]
        kind = torch.device(device).type  # pyright: ignore[reportArgumentType]
    except (RuntimeError, TypeError, ValueError):
        raise ValueError(f"`device` must be a torch device such as 'cpu' or 'cuda', got {brief(device)}.") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("`device` is 'cuda' but torch sees no GPU here: leave `device` out, or install a CUDA torch.")
    return device


def as_list(name: str, values: Any, kind: str) -> list[Any]:
    """The elements of a sequence, tensor or array.

    Raises:
        TypeError: If it is none of these.
    """
    if isinstance(values, Sequence) and not isinstance(values, str | bytes):
        return list(values)
    if isinstance(listed := getattr(values, "tolist", lambda: None)(), list):
        return listed
    raise TypeError(f"`{name}` must be {kind}, got {brief(values)}.")


def check_matrix(name: str, matrix: Tensor, width: int | None = None) -> None:
    """Raise unless `matrix` is a finite, non-empty, floating (rows, width) tensor.

    Raises:
        TypeError: If it is not a floating-point tensor.
        ValueError: If its shape is wrong or it holds NaN or infinity.
    """
    if not isinstance(matrix, Tensor) or not matrix.is_floating_point():
        kind = matrix.dtype if isinstance(matrix, Tensor) else type(matrix).__name__
        raise TypeError(
            f"`{name}` must be a floating-point tensor, got {kind}: convert it with `torch.as_tensor(…).float()`."
        )
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(
            f"`{name}` must be a non-empty matrix with one row per example, got shape {tuple(matrix.shape)}."
        )
    if width is not None and matrix.shape[1] != width:
        raise ValueError(
            f"`{name}` must have the features' width {width}, got {matrix.shape[1]}: embed both with the same encoder."
        )
    if not matrix.sum().isfinite():  # as every NaN and infinity shows, an order faster; an overflow is looked into
        check_finite(name, torch.isfinite(matrix).all(dim=1))


def check_finite(name: str, finite: Tensor, first_row: int = 0) -> None:
    """Raise unless all rows are finite, (rows,) of bool.

    Raises:
        ValueError: If not; the message counts rows from `first_row`.
    """
    if not bool(finite.all()):
        bad = torch.nonzero(~finite).flatten()
        raise ValueError(
            f"`{name}` must be finite, got NaN or infinity in {len(bad)} row(s), first in row "
            f"{first_row + int(bad[0])}: drop or recompute them."
        )
