"""Columns of a dataset as tensors: vectors and scores, read through Arrow."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

if TYPE_CHECKING:
    from torch import Tensor

BATCH_ROWS = 10_000


def check_column(argument: str, name: Any, dataset: Dataset, *, of: str = "dataset") -> None:
    """Raise unless `dataset` has a column of that name.

    Raises:
        ValueError: If it has none.
    """
    from hf_gip.core.validation import brief

    if not isinstance(name, str) or name not in dataset.column_names:
        raise ValueError(f"`{argument}` must name a column of the {of} {dataset.column_names}, got {brief(name)}.")


def read_vectors(dataset: Dataset, name: str) -> "Tensor":
    """A column of equally long lists of numbers as an (n, d) tensor, in the column's own float width.

    Raises:
        ValueError: If the column is unknown, holds no numbers, or its rows differ in length.
    """
    import torch

    check_column("features", name, dataset)
    blocks: list[np.ndarray] = []
    for column in _arrow_batches(dataset, name):
        flat, rows = _flatten(column, name), len(column)
        if flat.null_count or rows == 0 or len(flat) % rows or not _is_rectangular(column):
            raise ValueError(
                f"`features` column {name!r} must hold vectors of one length, got missing or uneven ones among rows "
                f"{sum(map(len, blocks))} to {sum(map(len, blocks)) + rows - 1}."
            )
        blocks.append(flat.to_numpy(zero_copy_only=False).reshape(rows, -1))
    if len({block.shape[1] for block in blocks}) > 1:
        widths = sorted({block.shape[1] for block in blocks})
        raise ValueError(f"`features` column {name!r} must hold vectors of one length, got lengths {widths}.")
    matrix = np.concatenate(blocks)
    return torch.from_numpy(matrix if matrix.dtype.kind == "f" else matrix.astype(np.float32))


def read_scores(dataset: Dataset, names: Sequence[str]) -> tuple["Tensor", dict[str, int]]:
    """Numeric columns as an (n, s) float64 tensor with NaN where a score is missing, and how many each misses.

    Raises:
        ValueError: If a column is unknown, not numeric, constant, or has no score at all.
    """
    import torch

    columns = [_score_column(dataset, name) for name in names]
    missing = {name: int(np.isnan(column).sum()) for name, column in zip(names, columns, strict=True)}
    return torch.from_numpy(np.stack(columns, axis=1)), missing


def _score_column(dataset: Dataset, name: str) -> np.ndarray:
    check_column("scores", name, dataset)
    blocks: list[np.ndarray] = []
    for column in _arrow_batches(dataset, name):
        kind = column.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise ValueError(f"`scores` column {name!r} must be numeric, got type {kind}: use `cast_column`.")
        blocks.append(pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False))  # null becomes NaN
    values = np.concatenate(blocks)
    rated = values[~np.isnan(values)]
    if not len(rated):
        raise ValueError(f"`scores` column {name!r} must hold scores, got {len(values)} missing values: leave it out.")
    if not np.isfinite(rated).all():
        raise ValueError(
            f"`scores` column {name!r} must be finite, got {int(np.isinf(rated).sum())} infinite value(s)."
        )
    if rated.min() == rated.max():
        raise ValueError(f"`scores` column {name!r} must vary, got {rated[0]:g} in every row: leave it out.")
    return values


def read_categories(dataset: Dataset, name: str, *, argument: str) -> tuple["Tensor", list[Any]]:
    """A column of few values as the number of each row's value, (n,), −1 where missing, and the values, sorted.

    The values of a `ClassLabel` are its names, those that occur in their order.

    Raises:
        ValueError: If the column is unknown, of another kind, or empty.
    """
    import torch

    check_column(argument, name, dataset)
    column = pa.chunked_array(list(_arrow_batches(dataset, name)))
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or _is_words(kind)):
        raise ValueError(
            f"`{argument}` column {name!r} must hold strings, whole numbers or booleans, got type {kind}."
        )
    if hasattr(dataset.features[name], "names"):  # −1 is how a ClassLabel says that there is none
        absent = pc.call_function("less", [column, pa.scalar(0, kind)])
        column = pc.call_function("if_else", [absent, pa.scalar(None, kind), column])
    values = pc.call_function("unique", [pc.call_function("drop_null", [column])])
    values = values.take(pc.call_function("sort_indices", [values.cast(pa.int8()) if kind == pa.bool_() else values]))
    if not len(values):
        raise ValueError(
            f"`{argument}` column {name!r} must hold values, got {len(column)} missing ones: leave it out."
        )
    codes = pc.fill_null(pc.call_function("index_in", [column], pc.SetLookupOptions(values)), -1)
    labels = getattr(dataset.features[name], "names", None)
    named = [labels[value] for value in values.to_pylist()] if labels else values.to_pylist()
    return torch.from_numpy(codes.to_numpy().astype(np.int64)), named


def read_tokens(dataset: Dataset, name: str) -> "Tensor":
    """A column of token counts, whole numbers of at least 1, (n,).

    Raises:
        ValueError: If the column is unknown or holds something else.
    """
    import torch

    check_column("token_column", name, dataset)
    column = pa.chunked_array(list(_arrow_batches(dataset, name)))
    minimum = pc.call_function("min", [column]).as_py() if pa.types.is_integer(column.type) else None
    if minimum is None or column.null_count or minimum < 1:
        problem = f"{column.null_count} missing" if column.null_count else f"type {column.type}, least value {minimum}"
        raise ValueError(f"`token_column` {name!r} must hold whole numbers of at least 1, got {problem}.")
    return torch.from_numpy(column.to_numpy().astype(np.int64))


def _is_words(kind: Any) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _arrow_batches(dataset: Dataset, name: str) -> Iterator[Any]:
    for batch in dataset.select_columns([name]).with_format("arrow").iter(batch_size=BATCH_ROWS):
        yield batch.column(0).combine_chunks()  # pyright: ignore[reportAttributeAccessIssue]


def _flatten(column: pa.Array, name: str) -> pa.Array:
    kind = column.type
    if isinstance(column, pa.ExtensionArray):
        column, kind = column.storage, column.storage.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise ValueError(f"`features` column {name!r} must hold vectors (lists of numbers), got type {kind}.")
    flat = column.flatten()
    if not (pa.types.is_floating(flat.type) or pa.types.is_integer(flat.type)):
        raise ValueError(f"`features` column {name!r} must hold lists of numbers, got type {kind}.")
    return flat


def _is_rectangular(column: pa.Array) -> bool:
    if column.null_count:
        return False
    storage = column.storage if isinstance(column, pa.ExtensionArray) else column
    return len(pc.call_function("list_value_length", [storage]).unique()) == 1
