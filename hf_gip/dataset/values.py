"""Numbers, arrays, columns and frames of any library in the form that this package reads."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Column, Dataset
from torch import Tensor

from hf_gip.core.validation import brief

NUMERIC_KINDS = "fiub"  # of numpy


def plain_value(value: Any) -> Any:
    """A number, frame, series, column or array of any library in the form that this package reads.

    Numbers of numpy and torch become Python's own, rows of numbers a tensor that records no gradients, texts a list, a
    table that holds texts a `Dataset`. Anything else comes back as it is, for the caller to refuse.
    """
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray | Tensor) and not value.ndim):
        return value.item()
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, str | bytes | int | float | Dataset | Mapping) or value is None:
        return value
    if isinstance(value, pa.Table):
        return Dataset(value)  # pyright: ignore[reportArgumentType]
    if hasattr(value, "columns") and hasattr(value, "to_numpy"):  # a frame of pandas or polars
        return _plain_frame(value)
    return _as_tensor(_as_array(value))


def _as_array(value: Any) -> Any:
    """A series, a column or a list of vectors as an array, texts as a list; anything else as it is."""
    if isinstance(value, Column):
        value = value[:]  # pyright: ignore[reportArgumentType] — takes slices
    elif isinstance(value, pa.Array | pa.ChunkedArray):
        value = value.to_pylist()
    elif hasattr(value, "to_numpy"):  # a series of pandas or polars
        value = value.to_numpy()
    if isinstance(value, np.ndarray) and value.dtype.kind not in NUMERIC_KINDS:
        value = value.tolist()
    if not isinstance(value, list | tuple):
        return value
    rows = [row.numpy(force=True) if isinstance(row, Tensor) else row for row in value]
    stacks = any(isinstance(row, np.ndarray) for row in rows) and len({np.shape(row) for row in rows}) == 1
    return np.stack(rows) if stacks else rows


def _as_tensor(value: Any) -> Any:
    """An array or lists of numbers as a tensor; anything else as it is, numbers in a row among them."""
    if isinstance(value, list) and not all(isinstance(row, list | tuple) for row in value or [0]):
        return value
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nothing here writes into it
            return torch.as_tensor(np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return value


def _plain_frame(frame: Any) -> Any:
    """A frame of numbers as a tensor, one with texts as a `Dataset`."""
    values = frame.to_numpy()
    if any(isinstance(value, str) for value in values.flat):
        return (
            Dataset(frame.to_arrow())
            if hasattr(frame, "to_arrow")
            else Dataset.from_pandas(frame, preserve_index=False)
        )
    try:
        return torch.from_numpy(np.array(values, dtype=np.float32 if values.dtype == np.float32 else np.float64))
    except (TypeError, ValueError):
        return frame


def plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the numbers of numpy and torch as Python's own, and lists of names of any library as lists."""
    numbers = {
        name: value.item()
        for name, value in options.items()
        if isinstance(value, np.generic | np.ndarray | Tensor) and not value.ndim
    }
    names = {
        name: listed
        for name in ("columns", "scores", "cover_columns")
        if isinstance(listed := plain_value(options.get(name)), list)
    }
    return {**options, **numbers, **names}


def describe_value(value: Any) -> str:
    """What a value is, for an error: itself where it is short by nature, else its type."""
    return brief(value) if isinstance(value, str | bytes | int | float | list | tuple) else type(value).__name__


def as_matrix(name: str, value: Any, expected: str) -> Tensor:
    """Numbers as a tensor.

    Raises:
        TypeError: If they are none.
    """
    matrix = plain_value(value)
    if not isinstance(matrix, Tensor):
        raise TypeError(f"`{name}` must be {expected}, got {describe_value(value)}.")
    return matrix
