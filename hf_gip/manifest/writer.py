"""Subset, manifest and card as files."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict

from hf_gip.hashing import hash_file, hash_lines, hash_rows, hash_table, iter_tables, row_hashes, values
from hf_gip.io import check_path, friendly_disk_errors
from hf_gip.manifest.dataset_card import SELECTION_CONFIG, card_text
from hf_gip.manifest.reader import selection_table, write_selection
from hf_gip.manifest.schema import (
    CARD_PATH,
    MANIFEST_PATH,
    PLAIN_NAME,
    SELECTION_PATH,
    FileEntry,
    Manifest,
    Origin,
    Source,
)

if TYPE_CHECKING:
    pass


def source_of(record: Mapping[str, Any], pool: Dataset | None, origins: Sequence[Origin] | None = None) -> Source:
    """The source part of the manifest; a pool without files or repository is hashed whole, once (7 µs a row).

    Args:
        record: Of the selection.
        pool: The rows that were chosen from, where they are at hand.
        origins: Those of the record with what the Hub says of them, where it was asked.

    Returns:
        What the manifest says of the source.
    """
    described = {name: value for name, value in record["source"].items() if name in Source.model_fields}
    if described["kind"] == "rows" and pool is not None:
        described["rows_sha256"] = hash_lines(row_hashes(pool, pool.column_names))
    source = Source.model_validate(described)
    return source if origins is None else source.model_copy(update={"origins": list(origins)})


SHARD_BYTES = 500_000_000
ELSEWHERE = (
    "timings",
    "source",
    "versions",
    "method",
    "parameters",
    "column_hashes",
)  # kept in fields of their own, or not


def write_layout(
    subset: Dataset,
    folder: str | os.PathLike[str],
    *,
    include_rows: bool = True,
    max_shard_size: int | str = SHARD_BYTES,
    config_name: str = "default",
    split: str = "train",
    origins: Sequence[Origin] | None = None,
) -> Manifest:
    """Write rows, selection, card and manifest to `folder`, whole or not at all.

    Rows are streamed: memory does not grow with the subset. The same subset gives the same bytes.

    Args:
        subset: A dataset with `.selection`, as `gip_select` returns it.
        folder: Where to write; must not exist, or be empty.
        include_rows: False leaves the rows out and keeps their positions and hashes.
        max_shard_size: Size of a shard before compression, in bytes or such as `"500MB"`.
        config_name: Configuration under which `load_dataset` finds the rows.
        split: Split under which it finds them.
        origins: Where the rows came from, with what the Hub says of it.

    Returns:
        The manifest written.

    Raises:
        FileExistsError: If `folder` is not empty.
        TypeError: If `subset` is no `Dataset`, or `folder` no path.
        ValueError: If `subset` carries no selection, or one that does not fit its rows.
    """
    check_path("folder", folder, "a new or empty folder")
    target = Path(folder)
    check_empty(target)
    check_subset(subset)
    check_names(config_name, split)
    shard_bytes = check_shard_size(max_shard_size)
    advice = "free space there or choose another folder; nothing of it was left"
    with friendly_disk_errors(target, advice), _aside(target) as aside:
        rows = _write_rows(subset, aside if include_rows else None, split, shard_bytes)
        manifest = _write_selection(subset, aside, rows, config_name, split, origins)
        (aside / CARD_PATH).write_text(card_text(manifest), encoding="utf-8")
        (aside / MANIFEST_PATH).write_bytes(manifest.to_bytes())
    return manifest


def check_empty(folder: Path) -> None:
    """Raise unless `folder` can be written to.

    Raises:
        FileExistsError: If something is there.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()) or (folder.is_dir() and any(folder.iterdir())):
        raise FileExistsError(f"`folder` must be new or empty, got {str(folder)!r}: name another or clear it first.")


def check_subset(subset: Any) -> None:
    """Raise unless `subset` is a dataset with the record of its selection.

    Raises:
        TypeError: If it is something else.
        ValueError: If the record is missing, or was made for other rows, or the rows are shown through a transform.
    """
    from hf_gip.features.text import check_no_transform

    if isinstance(subset, DatasetDict):
        raise TypeError(
            f"`subset` must be one `datasets.Dataset`, got a DatasetDict with splits {list(subset)}: save each split "
            "by itself, in a folder of its own."
        )
    if not isinstance(subset, Dataset):
        raise TypeError(
            f"`subset` must be a `datasets.Dataset`, got {type(subset).__name__}: save each split by itself."
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


def check_rebuildable(source: Mapping[str, Any]) -> None:
    """Raise unless `load_subset` can take rows of `source`, as a selection records it, from the Hub again.

    Raises:
        ValueError: If they were chosen from anything but a repository as it was loaded.
    """
    if source["kind"] != "hub":
        derived = any(origin["repo_id"] for origin in source.get("origins") or ())
        what = "local files" if source["kind"] == "files" else "changed rows" if derived else "rows made in memory"
        raise ValueError(
            f"`include_rows=False` must have a source that `load_subset` can read from the Hub, got {what}: keep the "
            "rows, or select from a dataset as `load_dataset` returns it."
        )


def check_unchanged(subset: Dataset) -> None:
    """Raise unless the rows of `subset` are those that its `.selection` was made with; a `with_format` is no change.

    Raises:
        ValueError: If a column or a row is another one, or a transform would show others than are stored.
    """
    if subset.format["type"] == "custom":
        raise ValueError(
            "`subset` must show the rows that it holds, got one with a transform: apply it to the pool by `map` and "
            "select again."
        )
    recorded = getattr(subset, "selection").record.get("column_hashes") or {}  # noqa: B009
    if (change := _first_change(subset, recorded)) is not None:
        raise ValueError(
            f"`subset` must hold the rows as they were chosen, got {change}: publish it before changing it, or select "
            "again on the changed pool."
        )


def _first_change(subset: Dataset, recorded: Mapping[str, str]) -> str | None:
    if gone := [name for name in recorded if name not in subset.column_names]:
        return f"none of the column {gone[0]!r}"
    for name in subset.column_names:
        if name not in recorded:
            return f"a column {name!r} that was not there"
        if hash_rows(subset, [name]) != recorded[name]:
            return f"other values in the column {name!r}{_first_row(subset, name)}"
    return None


def _first_row(subset: Dataset, column: str) -> str:
    """Where a column differs from the pool's, if the pool is at hand and its values differ."""
    pool = getattr(subset, "selected_from", None)
    if pool is None or column not in pool.column_names:
        return ""
    chosen = pool.select(getattr(subset, "selection").indices.numpy())  # noqa: B009
    pairs = zip(row_hashes(subset, [column]), row_hashes(chosen, [column]), strict=True)
    first = next((row for row, (one, other) in enumerate(pairs) if one != other), None)
    return "" if first is None else f" (first at row {first})"


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


@dataclass(frozen=True, slots=True)
class _Written:
    hashes: pa.ChunkedArray
    files: dict[str, FileEntry]


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its place when all went well, and vanishes when not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        yield aside
        aside.chmod(0o777 & ~_umask())
        if target.is_dir():
            target.rmdir()
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_rows(subset: Dataset, folder: Path | None, split: str, shard_bytes: int) -> _Written:
    """Hash every row and, with a folder, write them in shards of about `shard_bytes`."""
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
    return _Written(pa.chunked_array(hashes, pa.string()), files)


def _write_selection(
    subset: Dataset, folder: Path, written: _Written, config_name: str, split: str, origins: Sequence[Origin] | None
) -> Manifest:
    selection = getattr(subset, "selection")  # noqa: B009 — set by `gip_select`, unknown to type checkers
    record: Mapping[str, Any] = selection.record
    source = source_of(record, getattr(subset, "selected_from", None), origins)
    path = folder / SELECTION_PATH
    path.parent.mkdir()
    hashes = written.hashes.combine_chunks()
    write_selection(selection_table(selection, _row_ids(subset, source.id_column), hashes), path)
    return Manifest(
        method=record["method"],
        parameters=dict(record["parameters"]),
        recipe={name: value for name, value in record.items() if name not in ELSEWHERE},
        source=source,
        versions=dict(record["versions"]),
        k=len(subset),
        columns=subset.column_names,
        objective=selection.objective,
        total=selection.total,
        captured=selection.captured,
        indices_sha256=hash_lines(values(pa.chunked_array([selection.indices.numpy()]))),
        rows_sha256=hash_lines(values(written.hashes)),
        include_rows=bool(written.files),
        config_name=config_name,
        split=split,
        files=written.files | {SELECTION_PATH: file_entry(path, len(subset))},
    ).sealed()


def file_entry(path: Path, rows: int | None = None) -> FileEntry:
    """A file's line in the manifest."""
    return FileEntry(sha256=hash_file(path), size=path.stat().st_size, rows=rows)


def _row_ids(subset: Dataset, id_column: str | None) -> pa.Array:
    """What names each row: its value in `id_column`, else its position in the pool."""
    if id_column is None or id_column not in subset.column_names:
        return pc.cast(pa.array(getattr(subset, "selection").indices.numpy()), pa.string())  # noqa: B009
    tables = iter_tables(subset, [id_column])
    chunks = [pa.array([str(value) for value in table[id_column].to_pylist()], pa.string()) for table in tables]
    return pa.chunked_array(chunks, pa.string()).combine_chunks()


def check_shard_size(size: int | str) -> int:
    """The bytes that `max_shard_size` stands for.

    Raises:
        ValueError: If it is no positive size.
    """
    from datasets.utils.py_utils import convert_file_size_to_int

    try:
        found = int(convert_file_size_to_int(size))
    except (ValueError, AttributeError):  # neither a number nor text
        found = 0
    if found < 1:
        raise ValueError(f'`max_shard_size` must be a positive number of bytes or such as "500MB", got {size!r}.')
    return found


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
    each row), a card, and `gip/manifest.json`: method, parameters, source, versions and hashes. It is written aside
    and renamed, so a folder is whole or absent; the same subset gives the same bytes.

    Args:
        subset: The result of `gip_select` and its siblings.
        folder: A new or empty folder.
        include_rows: False saves positions and hashes only, for sources on the Hub that must not be passed on.
        max_shard_size: Size of a Parquet file before compression, in bytes or such as `"500MB"`.
        config_name: Configuration under which `load_dataset` finds the rows.
        split: Split under which it finds them.

    Returns:
        The manifest.

    Raises:
        FileExistsError: If `folder` is not empty.
        TypeError: If `subset` is no `Dataset`, or `folder` no path.
        ValueError: If `subset` carries no selection, was changed since, or is to be saved without rows that the Hub
            does not have.
    """
    check_subset(subset)
    check_unchanged(subset)
    if not include_rows:
        check_rebuildable(getattr(subset, "selection").record["source"])  # noqa: B009
    return write_layout(
        subset,
        folder,
        include_rows=include_rows,
        max_shard_size=max_shard_size,
        config_name=config_name,
        split=split,
    )
