"""A saved subset read back: its rows, its picks and the record of how they were chosen."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from hf_gip.dataset.loading import load_files
from hf_gip.hashing import hash_columns
from hf_gip.io import check_path, first_line
from hf_gip.manifest.schema import SELECTION_PATH, SELECTION_SCHEMA, Manifest, read_manifest

if TYPE_CHECKING:
    from hf_gip.selection import Selection

MAX_ROWS = 1 << 31
NO_NULLS = ("rank", "index", "row_id", "gain", "row_sha256")


def load_folder(folder: str | os.PathLike[str]) -> Dataset:
    """The rows of a saved folder, with `.selection` restored; check it with `verify` first where it is not yours.

    Raises:
        FileNotFoundError: If the folder holds no manifest.
        TypeError: If `folder` is no path.
        ValueError: If it was saved without its rows, or a file does not fit the manifest.
    """
    check_path("folder", folder, "a folder written by `save_subset`")
    root = Path(folder)
    manifest = read_manifest(root)
    if not manifest.include_rows:
        raise ValueError(
            f"folder {root.name!r} holds positions and hashes without the rows: take them from its source."
        )
    rows = load_files("parquet", [root / path for path in manifest.shards()], split=manifest.split)
    if len(rows) != manifest.k:
        raise ValueError(f"folder {root.name!r} must hold {manifest.k} rows, got {len(rows)}: run `hf-gip verify`.")
    return restore_selection(rows, manifest, root)


def restore_selection(rows: Dataset, manifest: Manifest, folder: Path) -> Dataset:
    """Put the selection of `folder` onto its rows.

    Raises:
        ValueError: If the selection file is not valid or has another number of picks.
    """
    selection = load_selection(manifest, folder)
    if len(selection) != len(rows):
        raise ValueError(f"the selection must have one pick per row ({len(rows)}), got {len(selection)}.")
    selection = replace(selection, record={**selection.record, "column_hashes": hash_columns(rows)})
    setattr(rows, "selection", selection)  # noqa: B010 — an attribute of this instance
    return rows


def load_selection(manifest: Manifest, folder: Path) -> "Selection":
    """The selection of a saved folder, without its rows.

    Raises:
        ValueError: If the selection file is not valid.
    """
    import torch

    from hf_gip.selection import Selection

    table = read_selection_table(folder / SELECTION_PATH)
    columns = ["index", "gain", *table.column_names[len(SELECTION_SCHEMA) :]]
    curves = {name: torch.from_numpy(table[name].to_numpy().copy()) for name in columns}
    weights = None if table["weight"].null_count else torch.from_numpy(table["weight"].to_numpy().copy())
    content = manifest.model_dump()
    record = content["recipe"] | {name: content[name] for name in ("method", "parameters", "source", "versions")}
    return Selection(curves.pop("index"), curves.pop("gain"), manifest.total, weights, record, curves)


def read_selection_table(path: Path) -> pa.Table:
    """An untrusted selection file, its columns and values checked.

    Raises:
        ValueError: If it is not readable, has other columns, is too long, or misses a value.
    """
    expected = SELECTION_SCHEMA
    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows > MAX_ROWS:
                raise ValueError(f"{file.metadata.num_rows} rows, at most {MAX_ROWS} are read")
            schema = file.schema_arrow
            if schema.names[: len(expected)] != expected.names or schema.types[: len(expected)] != expected.types:
                raise ValueError(f"columns {schema.names}, expected {expected.names}")
            if wrong := [field.name for field in list(schema)[len(expected) :] if field.type != pa.float64()]:
                raise ValueError(f"extra column {wrong[0]!r} is no curve of float64")
            table = file.read()
            table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"the selection file {path.name!r} cannot be read: {first_line(error)}.") from None
    if gaps := [name for name in NO_NULLS if table[name].null_count]:
        raise ValueError(f"the selection file {path.name!r} has missing values in {gaps[0]!r}.")
    return table
