"""A subset saved to a folder: rows, picks, card and manifest, whole or not at all."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict

from hf_gip.hashing import hash_file, hash_lines, hash_pool, hash_rows, hash_table, iter_tables, row_hashes, values
from hf_gip.io import atomic_folder, check_path
from hf_gip.manifest.dataset_card import SELECTION_CONFIG, subset_card
from hf_gip.manifest.schema import (
    CARD_PATH,
    MANIFEST_PATH,
    PLAIN_NAME,
    SELECTION_PATH,
    SELECTION_SCHEMA,
    FileEntry,
    Manifest,
    Origin,
    Source,
)

if TYPE_CHECKING:
    from hf_gip.selection import Selection

SHARD_BYTES = 500_000_000
OUTSIDE_RECIPE = (
    "method",
    "parameters",
    "source",
    "versions",
    "timings",
    "column_hashes",
)  # fields of their own, or none
PARQUET: dict[str, Any] = {"compression": "zstd", "version": "2.6", "write_statistics": True}


def save_subset(
    subset: Dataset,
    folder: str | os.PathLike[str],
    *,
    include_rows: bool = True,
    max_shard_size: int | str = SHARD_BYTES,
    config_name: str = "default",
    split: str = "train",
) -> Manifest:
    """Save a selected subset with proof of how it was chosen.

    The folder holds Parquet that `load_dataset(folder)` reads, `gip/selection.parquet` (position, gain and hash of
    each row), a card, and `gip/manifest.json`: method, parameters, source, versions and hashes. It is written to a
    temporary folder and renamed, so a folder is whole or absent; the same subset gives the same bytes.

    Args:
        subset: The result of `gip_select` and its siblings.
        folder: A new or empty folder.
        include_rows: False saves positions and hashes only, for sources on the Hub that must not be passed on,
            *optional*, defaults to `True`.
        max_shard_size: Size of a Parquet file before compression, in bytes or such as `"500MB"`, *optional*, defaults
            to `500_000_000`.
        config_name: Configuration under which `load_dataset` finds the rows, *optional*, defaults to `"default"`.
        split: Split under which it finds them, *optional*, defaults to `"train"`.

    Returns:
        The manifest.

    Raises:
        FileExistsError: If `folder` is not empty.
        TypeError: If `subset` is no `Dataset`, or `folder` no path.
        ValueError: If `subset` carries no selection, was changed since, or is to be saved without rows that the Hub
            does not have.
    """
    check_path("folder", folder, "a new or empty folder")
    check_empty("folder", Path(folder))
    check_subset(subset, include_rows=include_rows)
    check_names(config_name, split)
    shard_bytes = parse_shard_size(max_shard_size)
    return write_subset(
        subset, Path(folder), include_rows=include_rows, shard_bytes=shard_bytes, config_name=config_name, split=split
    )


# --- checks, also before a push --------------------------------------------------------------------------------------


def check_empty(name: str, folder: Path) -> None:
    """Raise unless `folder`, the argument `name`, can be written to.

    Raises:
        FileExistsError: If something is there.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()) or (folder.is_dir() and any(folder.iterdir())):
        raise FileExistsError(f"`{name}` must be new or empty, got {str(folder)!r}: name another or clear it first.")


def check_subset(subset: Any, *, include_rows: bool) -> None:
    """Raise unless `subset` holds the rows that its `.selection` chose, as they were chosen.

    Args:
        subset: What is to be saved.
        include_rows: Whether the rows are saved, or are to be taken from the Hub.

    Raises:
        TypeError: If it is no `Dataset`.
        ValueError: If the record is missing or was made for other rows, a transform is set, or rows are left out that
            the Hub does not have.
    """
    from hf_gip.features.text import check_no_transform

    if not isinstance(subset, Dataset):
        kind = (
            f"a DatasetDict with splits {list(subset)}" if isinstance(subset, DatasetDict) else type(subset).__name__
        )
        raise TypeError(
            f"`subset` must be one `datasets.Dataset`, got {kind}: save each split by itself, in a folder of its own."
        )
    check_no_transform("subset", subset)
    selection = getattr(subset, "selection", None)
    if selection is None or "source" not in selection.record:
        raise ValueError(
            "`subset` must carry its `.selection`, got none: call `gip_select` first and save its result before other "
            "transforms, which drop the record."
        )
    if not len(subset):
        raise ValueError("`subset` must have at least one row, got none: select rows first.")
    if len(selection) != len(subset):
        raise ValueError(
            f"`subset` must have the rows its `.selection` chose ({len(selection)}), got {len(subset)}: save before "
            "other transforms."
        )
    if (change := _first_change(subset, selection.record.get("column_hashes") or {})) is not None:
        raise ValueError(
            f"`subset` must hold the rows as they were chosen, got {change}: publish it before changing it, or select "
            "again on the changed pool."
        )
    if not include_rows:
        check_rebuildable(selection.record["source"])


def check_rebuildable(source: Mapping[str, Any]) -> None:
    """Raise unless `load_subset` can take rows of `source`, as a selection records it, from the Hub again.

    Raises:
        ValueError: If they were chosen from anything but a repository as it was loaded.
    """
    if source["kind"] != "hub":
        derived = any(origin["repo_id"] for origin in source.get("origins") or ())
        kind = "local files" if source["kind"] == "files" else "changed rows" if derived else "rows made in memory"
        raise ValueError(
            f"`include_rows=False` must have a source that `load_subset` can read from the Hub, got {kind}: keep the "
            "rows, or select from a dataset as `load_dataset` returns it."
        )


def check_names(config_name: str, split: str) -> None:
    """Raise unless both can be file names that `datasets` reads.

    Raises:
        ValueError: If not.
    """
    for name, value in (("config_name", config_name), ("split", split)):
        if not isinstance(value, str) or not re.fullmatch(PLAIN_NAME, value):
            raise ValueError(
                f"`{name}` must be letters, digits, '_', and single '.' or '-' between them, got {value!r}."
            )
    if "-" in split:
        raise ValueError(
            f"`split` must be letters, digits, '_' and single '.', which `datasets` reads, got {split!r}."
        )
    if config_name.startswith(SELECTION_CONFIG):
        raise ValueError(
            f"`config_name` must not be {config_name!r}, under which the picks are found: choose another."
        )


def parse_shard_size(size: int | str) -> int:
    """The bytes that `max_shard_size` stands for.

    Raises:
        ValueError: If it is no positive size.
    """
    from datasets.utils.py_utils import convert_file_size_to_int

    try:
        count = int(convert_file_size_to_int(size))
    except (ValueError, AttributeError):  # neither a number nor text
        count = 0
    if count < 1:
        raise ValueError(f'`max_shard_size` must be a positive number of bytes or such as "500MB", got {size!r}.')
    return count


def _first_change(subset: Dataset, column_hashes: Mapping[str, str]) -> str | None:
    """How the rows differ from those that were chosen, in words; a `with_format` is no change."""
    if missing := [name for name in column_hashes if name not in subset.column_names]:
        return f"none of the column {missing[0]!r}"
    for name in subset.column_names:
        if name not in column_hashes:
            return f"a column {name!r} that was not there"
        if hash_rows(subset, [name]) != column_hashes[name]:
            return f"other values in the column {name!r}{_first_changed_row(subset, name)}"
    return None


def _first_changed_row(subset: Dataset, column: str) -> str:
    """Where a column differs from the pool's, if the pool is at hand and its values differ."""
    pool = getattr(subset, "selected_from", None)
    if pool is None or column not in pool.column_names:
        return ""
    chosen = pool.select(_selection(subset).indices.numpy())
    pairs = zip(row_hashes(subset, [column]), row_hashes(chosen, [column]), strict=True)
    first = next((row for row, (now, then) in enumerate(pairs) if now != then), None)
    return "" if first is None else f" (first at row {first})"


# --- writing ---------------------------------------------------------------------------------------------------------


def write_subset(
    subset: Dataset,
    folder: Path,
    *,
    include_rows: bool,
    shard_bytes: int,
    config_name: str,
    split: str,
    origins: Sequence[Origin] | None = None,
) -> Manifest:
    """Write rows, selection, card and manifest of a checked subset to `folder`, whole or not at all.

    Rows are streamed: memory does not grow with the subset.

    Args:
        subset: A dataset with `.selection`.
        folder: A new or empty folder.
        include_rows: Whether the rows are written, besides their positions and hashes.
        shard_bytes: Size of a shard before compression.
        config_name: Configuration of the rows.
        split: Split of the rows.
        origins: Where the rows came from, with what the Hub says of it.

    Returns:
        The manifest written.
    """
    selection = _selection(subset)
    record: Mapping[str, Any] = selection.record
    source = _source(record, getattr(subset, "selected_from", None), origins)
    loaded_from = getattr(subset, "loaded_from", None)  # whose privacy a later push asks for
    if origins is None and loaded_from not in (None, *(origin.repo_id for origin in source.origins)):
        source = source.model_copy(update={"origins": [*source.origins, Origin(repo_id=loaded_from)]})
    with atomic_folder(folder, "free space there or choose another folder; nothing of it was left") as part:
        hashes, files = _write_rows(subset, part if include_rows else None, split, shard_bytes)
        path = part / SELECTION_PATH
        path.parent.mkdir()
        row_ids = _row_ids(subset, selection, source.id_column)
        write_selection(selection_table(selection, row_ids, hashes.combine_chunks()), path)
        manifest = Manifest(
            method=record["method"],
            parameters=dict(record["parameters"]),
            recipe={name: value for name, value in record.items() if name not in OUTSIDE_RECIPE},
            source=source,
            versions=dict(record["versions"]),
            k=len(subset),
            columns=subset.column_names,
            objective=selection.objective,
            total=selection.total,
            captured=selection.captured,
            indices_sha256=hash_lines(values(pa.chunked_array([selection.indices.numpy()]))),
            rows_sha256=hash_lines(values(hashes)),
            include_rows=include_rows,
            config_name=config_name,
            split=split,
            files=files | {SELECTION_PATH: file_entry(path, len(subset))},
        ).sealed()
        (part / CARD_PATH).write_text(subset_card(manifest), encoding="utf-8")
        (part / MANIFEST_PATH).write_bytes(manifest.to_bytes())
    return manifest


def _source(record: Mapping[str, Any], pool: Dataset | None, origins: Sequence[Origin] | None) -> Source:
    """The source part of the manifest; a pool without files or repository is hashed whole, once (7 µs a row)."""
    described = {name: value for name, value in record["source"].items() if name in Source.model_fields}
    if described["kind"] == "rows" and pool is not None:
        described["rows_sha256"] = hash_pool(pool, pool.column_names)
    source = Source.model_validate(described)
    return source if origins is None else source.model_copy(update={"origins": list(origins)})


def _write_rows(
    subset: Dataset, folder: Path | None, split: str, shard_bytes: int
) -> tuple[pa.ChunkedArray, dict[str, FileEntry]]:
    """Hash every row and, with a folder, write them in shards of about `shard_bytes`: hashes and files."""
    files: dict[str, FileEntry] = {}
    hashes: list[pa.Array] = []
    columns = subset.column_names
    shards: list[tuple[Path, int]] = []
    writer: pq.ParquetWriter | None = None
    size = rows = 0
    schema = subset.features.arrow_schema
    try:
        for table in iter_tables(subset, columns):
            hashes.append(pa.array(hash_table(table, columns), pa.string()))
            if folder is None:
                continue
            if writer is None:
                (folder / "data").mkdir(exist_ok=True)
                path = folder / "data" / f"shard-{len(shards):05d}"
                writer, size, rows = pq.ParquetWriter(path, schema, compression="snappy"), 0, 0
                shards.append((path, 0))
            writer.write_table(table.cast(schema))
            size, rows = size + table.nbytes, rows + len(table)
            shards[-1] = (shards[-1][0], rows)
            if size >= shard_bytes:
                writer.close()
                writer = None
    finally:
        if writer is not None:
            writer.close()
    for number, (path, count) in enumerate(shards):
        final = path.with_name(f"{split}-{number:05d}-of-{len(shards):05d}.parquet")
        path.rename(final)
        files[f"data/{final.name}"] = file_entry(final, count)
    return pa.chunked_array(hashes, pa.string()), files


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
    table = pa.Table.from_arrays(columns, schema=SELECTION_SCHEMA)
    for name, curve in sorted(selection.curves.items()):
        table = table.append_column(name, pa.array(curve.double().numpy()))
    return table


def write_selection(table: pa.Table, path: Path) -> None:
    """Write the picks; the same table gives the same bytes."""
    pq.write_table(table, path, **PARQUET)


def file_entry(path: Path, rows: int | None = None) -> FileEntry:
    """A file's line in the manifest."""
    return FileEntry(sha256=hash_file(path), size=path.stat().st_size, rows=rows)


def _row_ids(subset: Dataset, selection: "Selection", id_column: str | None) -> pa.Array:
    """What names each row: its value in `id_column`, else its position in the pool."""
    if id_column is None or id_column not in subset.column_names:
        return pc.cast(pa.array(selection.indices.numpy()), pa.string())
    tables = iter_tables(subset, [id_column])
    chunks = [pa.array([str(value) for value in table[id_column].to_pylist()], pa.string()) for table in tables]
    return pa.chunked_array(chunks, pa.string()).combine_chunks()


def _selection(subset: Dataset) -> "Selection":
    return getattr(subset, "selection")  # noqa: B009 — set by `gip_select`, unknown to type checkers
