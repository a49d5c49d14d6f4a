"""Values among the arguments of a call: as matrices or texts, and as the digests that name them in cache keys."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Column, Dataset
from torch import Tensor

from hf_gip.core.validation import brief, check_matrix
from hf_gip.dataset.columns import read_vectors
from hf_gip.features.embed import Features, identify_encoder
from hf_gip.features.encoders import DEFAULT_ENCODER
from hf_gip.features.text import check_no_transform, text_recipe
from hf_gip.hashing import hash_array, hash_json, hash_rows

NUMBERS = "fiub"  # numpy's kinds


def encoder_of(options: dict[str, Any]) -> Any:
    """The encoder asked for, or the default one."""
    return DEFAULT_ENCODER if options["encoder"] is None else options["encoder"]


# --- values of any library -------------------------------------------------------------------------------------------


def plain_value(value: Any) -> Any:
    """A number, frame, series, column or array of any library in the form that this package reads.

    Numbers of numpy and torch become Python's own, rows of numbers a tensor, texts a list, a table that holds texts a
    `Dataset`. Anything else comes back as it is, for the caller to refuse.
    """
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray | Tensor) and not value.ndim):
        return value.item()
    if isinstance(value, str | bytes | int | float | Tensor | Dataset | Mapping) or value is None:
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
    if isinstance(value, np.ndarray) and value.dtype.kind not in NUMBERS:
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
        for name in ("columns", "scores", "cover")
        if isinstance(listed := plain_value(options.get(name)), list)
    }
    return {**options, **numbers, **names}


def described(value: Any) -> str:
    """What a value is, for an error: itself where it is short by nature, else its type."""
    return brief(value) if isinstance(value, str | bytes | int | float | list | tuple) else type(value).__name__


def as_matrix(name: str, value: Any, what: str) -> Tensor:
    """Numbers as a tensor.

    Raises:
        TypeError: If they are none.
    """
    matrix = plain_value(value)
    if not isinstance(matrix, Tensor):
        raise TypeError(f"`{name}` must be {what}, got {described(value)}.")
    return matrix


# --- the features ----------------------------------------------------------------------------------------------------


def read_features(dataset: Dataset, features: Any) -> Features:
    """The vectors brought along, a column or a matrix: checked once, hashed once.

    Raises:
        TypeError: If they are no numbers.
        ValueError: If there is not one vector per row, or one is not finite.
    """
    if isinstance(features, str):
        matrix, kind = read_vectors(dataset, features), {"kind": "column", "column": features}
    else:
        matrix = as_matrix("features", features, "a column's name or a matrix with a row per example")
        kind = {"kind": "matrix"}
    if len(matrix) != len(dataset):
        raise ValueError(
            f"`features` must have one row per example ({len(dataset)}), got {len(matrix)}: pass the vectors of this "
            "very dataset, in its order."
        )
    check_matrix("features", matrix)
    return Features(matrix, kind | {"sha256": hash_array(matrix), "dims": matrix.shape[1]})


def text_request(dataset: Dataset, options: dict[str, Any]) -> dict[str, Any]:
    """What names the embeddings of the rows' texts.

    Raises:
        ValueError: If a column is unknown.
    """
    recipe = text_recipe(dataset, options["columns"], options["template"])
    return {
        **_encoder_identity(dataset, options, options["columns"], options["template"]),
        "columns": list(recipe.columns),
        "template": recipe.template,
    }


# --- target and exclude ----------------------------------------------------------------------------------------------


def read_beside(name: str, options: dict[str, Any]) -> Any:
    """What is given beside the pool as `target` or `exclude`: a Dataset, a list of texts or a tensor.

    Raises:
        TypeError: If it is none of these.
        ValueError: If it is empty, shown through a transform, or cannot be brought to the features' width.
    """
    value = plain_value(options[name])
    if value is None or isinstance(value, Tensor):
        return value
    if not isinstance(value, Dataset | Sequence) or isinstance(value, str | bytes):
        raise TypeError(f"`{name}` must be a Dataset, a list of texts or a matrix, got {type(value).__name__}.")
    if isinstance(options["features"], Tensor) and options["encoder"] is None:
        raise ValueError(
            f"`{name}` must be a matrix of the features' width when `features` is a matrix: embed it the same way, or "
            "name the `encoder` that made the features."
        )
    if not len(value):
        raise ValueError(f"`{name}` must hold at least one row or text, got none.")
    if isinstance(value, Dataset):
        check_no_transform(name, value)
    elif wrong := [text for text in value if not isinstance(text, str)]:
        raise TypeError(f"`{name}` must be a list of texts, got an element of type {type(wrong[0]).__name__}.")
    return value


def beside_request(value: Any, options: dict[str, Any]) -> dict[str, Any] | None:
    """The content of `target` or `exclude`, as far as it is read."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        return {"sha256": hash_array(value)}
    request: dict[str, Any]
    if isinstance(value, Dataset):
        columns = columns_beside(value, options)
        request, embedded = {"rows": hash_rows(value, columns)}, not isinstance(options["features"], str)
    else:
        request, embedded, columns = {"texts": hash_json({"texts": value})}, True, ["text"]
        value = Dataset.from_dict({"text": value})
    if embedded and not (options["features"] is None and isinstance(encoder_of(options), str)):
        request["encoder"] = _encoder_identity(value, options, columns)  # a name that made the features stands there
    return request


def _encoder_identity(
    rows: Dataset, options: dict[str, Any], columns: Sequence[str] | None, template: str | None = None
) -> dict[str, Any]:
    """What the encoder is, for the texts of `rows`."""
    how = {"device": options["device"], "encoder_id": options["encoder_id"]}
    return identify_encoder(rows, encoder_of(options), columns=columns, template=template, **how)


def columns_beside(rows: Dataset, options: dict[str, Any]) -> list[str]:
    """The columns that are read of a target or of rows to exclude: those of the pool where it has them."""
    if isinstance(options["features"], str):
        return [options["features"]]
    columns = options["columns"]
    columns = columns if columns and set(columns) <= set(rows.column_names) else None
    return list(text_recipe(rows, columns).columns)
