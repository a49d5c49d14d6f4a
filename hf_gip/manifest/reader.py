"""Subsets read back from a folder."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, NamedSplit

from hf_gip.hashing import hash_columns
from hf_gip.io import check_path
from hf_gip.manifest.schema import SELECTION_PATH, Manifest, read_manifest

if TYPE_CHECKING:
    from hf_gip.selection import Selection


SCHEMA = pa.schema(
    [
        ("rank", pa.int64()),
        ("index", pa.int64()),
        ("row_id", pa.string()),
        ("gain", pa.float64()),
        ("row_sha256", pa.string()),
        ("weight", pa.float64()),
        ("epoch", pa.int64()),
    ]
)
WRITER: dict[str, Any] = {"compression": "zstd", "version": "2.6", "write_statistics": True}
MAX_ROWS = 1 << 31
NO_NULLS = ("rank", "index", "row_id", "gain", "row_sha256")


def selection_table(selection: "Selection", row_ids: pa.Array, hashes: pa.Array) -> pa.Table:
    """Rank, position, name, gain, row hash, weight and epoch of each pick, then the selection's own curves."""
    k = len(selection)
    weights = None if selection.weights is None else selection.weights.double().numpy()
    columns = [
        pa.array(np.arange(k)),
        pa.array(selection.indices.numpy()),
        row_ids,
        pa.array(selection.gains.double().numpy()),
        hashes,
        pa.nulls(k, pa.float64()) if weights is None else pa.array(weights),
        pa.nulls(k, pa.int64()),
    ]
    table = pa.Table.from_arrays(columns, schema=SCHEMA)
    for name, curve in sorted(selection.curves.items()):
        table = table.append_column(name, pa.array(curve.double().numpy()))
    return table


def write_selection(table: pa.Table, path: Path) -> None:
    """The same table gives the same bytes."""
    pq.write_table(table, path, **WRITER)


def read_selection(path: Path) -> pa.Table:
    """An untrusted selection file, its columns and values checked.

    Raises:
        ValueError: If it is not readable, has other columns, is too long, or misses a value.
    """
    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows > MAX_ROWS:
                raise ValueError(f"{file.metadata.num_rows} rows, at most {MAX_ROWS} are read")
            found = file.schema_arrow
            if found.names[: len(SCHEMA)] != SCHEMA.names or found.types[: len(SCHEMA)] != SCHEMA.types:
                raise ValueError(f"columns {found.names}, expected {SCHEMA.names}")
            if wrong := [field.name for field in list(found)[len(SCHEMA) :] if field.type != pa.float64()]:
                raise ValueError(f"extra column {wrong[0]!r} is no curve of float64")
            table = file.read()
            table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"the selection file {path.name!r} cannot be read: {reason}.") from None
    if gaps := [name for name in NO_NULLS if table[name].null_count]:
        raise ValueError(f"the selection file {path.name!r} has missing values in {gaps[0]!r}.")
    return table


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
    rows = Dataset.from_parquet([str(root / path) for path in manifest.shards()], split=NamedSplit(manifest.split))
    if not isinstance(rows, Dataset) or len(rows) != manifest.k:
        raise ValueError(f"folder {root.name!r} must hold {manifest.k} rows, got {len(rows)}: run `hf-gip verify`.")
    return restore_selection(rows, manifest, root)


def restore_selection(rows: Dataset, manifest: Manifest, folder: Path) -> Dataset:
    """Put the selection of `folder` onto its rows.

    Raises:
        ValueError: If the selection file is not valid or has another number of picks.
    """
    selection = read_picks(manifest, folder)
    if len(selection) != len(rows):
        raise ValueError(f"the selection must have one pick per row ({len(rows)}), got {len(selection)}.")
    selection = replace(selection, record={**selection.record, "column_hashes": hash_columns(rows)})
    setattr(rows, "selection", selection)  # noqa: B010 — an attribute of this instance
    return rows


def read_picks(manifest: Manifest, folder: Path) -> "Selection":
    """The selection of a saved folder, without its rows.

    Raises:
        ValueError: If the selection file is not valid.
    """
    import torch

    from hf_gip.selection import Selection

    table = read_selection(folder / SELECTION_PATH)
    tensors = {
        name: torch.from_numpy(table[name].to_numpy().copy())
        for name in table.column_names
        if name in ("index", "gain") or name not in SCHEMA.names
    }
    weights = None if table["weight"].null_count else torch.from_numpy(table["weight"].to_numpy().copy())
    indices, gains = tensors.pop("index"), tensors.pop("gain")
    return Selection(indices, gains, manifest.total, weights, record_of(manifest), tensors)


def record_of(manifest: Manifest) -> dict[str, Any]:
    """The selection's record as the manifest kept it."""
    kept = manifest.model_dump()
    names = ("method", "parameters", "source", "versions")
    return {**kept["recipe"], **{name: kept[name] for name in names}}
