"""Vectors among the arguments of a call: as matrices, and as the digests that name them in cache keys."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from hf_gip.core.validation import brief
from hf_gip.dataset.columns import check_column, read_vectors
from hf_gip.features.encoders import DEFAULT_ENCODER, name_encoder
from hf_gip.features.text import text_recipe

BATCH_ROWS = 1_000


def encoder_of(options: dict[str, Any]) -> Any:
    """The encoder asked for, or the default one."""
    return DEFAULT_ENCODER if options["encoder"] is None else options["encoder"]


def read_matrix(dataset: Dataset, given: Any) -> Tensor:
    """The vectors brought along: a column, or a matrix.

    Raises:
        ValueError: If there is not one per row.
    """
    what = "a column's name or a matrix with a row per example"
    matrix = read_vectors(dataset, given) if isinstance(given, str) else as_matrix("features", given, what)
    if len(matrix) != len(dataset):
        raise ValueError(
            f"`features` must have one row per example ({len(dataset)}), got {len(matrix)}: pass the vectors of this "
            "very dataset, in its order."
        )
    return matrix


def as_matrix(name: str, given: Any, what: str) -> Tensor:
    """Numbers as a tensor.

    Raises:
        TypeError: If they are none.
    """
    try:
        matrix = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # as torch finds it
        matrix = torch.tensor(0)
    if not matrix.ndim:
        raise TypeError(f"`{name}` must be {what}, got {brief(given)}.")
    return matrix


def features_request(dataset: Dataset, options: dict[str, Any]) -> dict[str, Any]:
    """What names the features.

    Raises:
        ValueError: If a column is unknown.
    """
    given = options["features"]
    if given is None:
        recipe = text_recipe(dataset, options["columns"], options["template"])
        identity = name_encoder(encoder_of(options), device=options["device"]).identity
        return {**identity, "columns": list(recipe.columns), "template": recipe.template}
    if isinstance(given, str):
        check_column("features", given, dataset)
        return {"column": given}
    return {"sha256": digest(read_matrix(dataset, given))}


def vectors_request(name: str, options: dict[str, Any]) -> Any:
    """A digest of a dataset, texts or vectors given beside the pool.

    Raises:
        TypeError: If it is none of these.
        ValueError: If it is empty, or cannot be brought to the features' width.
    """
    given = options[name]
    if given is None:
        return None
    if isinstance(given, np.ndarray | Tensor):
        return {"sha256": digest(as_matrix(name, given, "a Dataset, a list of texts or a matrix"))}
    if isinstance(given, str | bytes) or not isinstance(given, Dataset | Sequence):
        raise TypeError(f"`{name}` must be a Dataset, a list of texts or a matrix, got {type(given).__name__}.")
    if isinstance(options["features"], np.ndarray | Tensor) and options["encoder"] is None:
        raise ValueError(
            f"`{name}` must be a matrix of the features' width when `features` is a matrix: embed it the same way, or "
            "name the `encoder` that made the features."
        )
    if not len(given):
        raise ValueError(f"`{name}` must hold at least one row or text, got none.")
    if isinstance(given, Dataset):
        return {"fingerprint": given._fingerprint}
    if wrong := [text for text in given if not isinstance(text, str)]:
        raise TypeError(f"`{name}` must be a list of texts, got an element of type {type(wrong[0]).__name__}.")
    return {"texts": hashlib.sha256(json.dumps(list(given)).encode()).hexdigest()}


def rows_digest(rows: Dataset, columns: Sequence[str]) -> str:
    """SHA-256 of the values in these columns, row by row: the same however the rows are stored.

    A missing text counts as an empty one, which is how texts are read and what a CSV file makes of it.
    """
    digest = hashlib.sha256()
    for table in rows.select_columns(sorted(columns)).with_format("arrow").iter(batch_size=BATCH_ROWS):
        for row in table.to_pylist():  # pyright: ignore[reportAttributeAccessIssue] — a table, by its format
            values = {name: "" if value is None else value for name, value in row.items()}
            digest.update(f"{json.dumps(values, sort_keys=True, default=str)}\n".encode())
    return digest.hexdigest()


def digest(matrix: Tensor) -> str:
    """SHA-256 of a matrix's shape, type and numbers."""
    contiguous = matrix.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tuple(contiguous.shape)} {contiguous.dtype}".encode())
    digest.update(contiguous.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
