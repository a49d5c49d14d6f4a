"""Is the source still the one the manifest names, and are the chosen rows still what they were."""

from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset

from hf_gip.dataset.source import describe_source
from hf_gip.hashing import hash_lines, row_hashes, values
from hf_gip.manifest.check_files import differing
from hf_gip.manifest.report import Check, verdict
from hf_gip.manifest.schema import SELECTION_PATH, Manifest, Source
from hf_gip.manifest.selection_file import read_selection


def check_source(manifest: Manifest, picks: pa.Table | None, source: Dataset | None) -> list[Check]:
    """The pool as a whole, and its rows at the chosen positions."""
    if source is None:
        return [Check("source", "not covered", f"not at hand: give {_ask(manifest.source)} as `source`")]
    return [_whole(manifest.source, source), _rows(manifest, picks, source)]


def check_chosen(manifest: Manifest, folder: Path, pool: Dataset, of: str | None = None) -> None:
    """Raise unless the rows of `pool` at the chosen positions have the hashes that the selection in `folder` holds.

    Args:
        manifest: Names the columns.
        folder: The saved subset.
        pool: The rows.
        of: What the subset is called, where there are several.

    Raises:
        ValueError: If a row is another one, or not there.
    """
    picks, whose = read_selection(folder / SELECTION_PATH), "" if of is None else f" of {of!r}"
    must = f"`source` must be the pool that the rows{whose} were chosen from"
    if gone := [column for column in manifest.columns if column not in pool.column_names]:
        raise ValueError(f"{must}, got one without the column {gone[0]!r}.")
    indices = picks["index"].to_numpy()
    if len(outside := indices[(indices < 0) | (indices >= len(pool))]):
        raise ValueError(f"{must}, got {len(pool):,} rows and none at position {outside[0]}.")
    found = row_hashes(pool.select(indices), manifest.columns)
    pairs = zip(indices.tolist(), values(picks["row_sha256"]), found, strict=True)
    if others := [row for row, want, got in pairs if want != got]:
        raise ValueError(f"{must}, got other rows (first at row {min(others)}).")


def _whole(recorded: Source, source: Dataset) -> Check:
    problems, others = [], []
    if len(source) != recorded.num_rows:
        problems.append(f"the source has {len(source):,} rows, the manifest says {recorded.num_rows:,}")
    if gone := [name for name in recorded.columns if name not in source.column_names]:
        problems.append(f"the source has no column {gone[0]!r}")
    elif recorded.rows_sha256 is not None:
        if hash_lines(row_hashes(source, recorded.columns)) != recorded.rows_sha256:
            problems.append("a row of the source was changed: its rows do not fit `rows_sha256`")
    else:
        found = describe_source(source)
        problems += _commit_problems(recorded, found) + _file_problems(recorded, found)
        if recorded.kind == "rows" or found["kind"] != recorded.kind:
            others.append(f"the rows of the source that were not chosen: it was not read as {_ask(recorded)}")
    return verdict("source", problems, f"{len(source):,} rows, as recorded", *others)


def _commit_problems(recorded: Source, found: dict[str, Any]) -> list[str]:
    if recorded.kind != "hub" or found["kind"] != "hub":
        return []
    if found["revision"] != recorded.revision:
        return [f"the source is at commit {found['revision']}, the manifest says {recorded.revision}"]
    for name in ("config", "split"):
        if found[name] != (wanted := getattr(recorded, name)):
            return [f"the source is the {name} {found[name]!r}, the manifest says {wanted!r}"]
    return []


def _file_problems(recorded: Source, found: dict[str, Any]) -> list[str]:
    """Files by content; a dataset opened in another way has none to compare, and its rows are compared below."""
    if recorded.kind != "files" or found["kind"] != "files":
        return []
    present = {file["sha256"] for file in found["files"]}
    changed = [file.name for file in recorded.files if file.sha256 not in present]
    return [f"file {name!r} of the source was changed: its SHA-256 is not the manifest's" for name in changed]


def _rows(manifest: Manifest, picks: pa.Table | None, source: Dataset) -> Check:
    name = "source rows"
    if picks is None:
        return Check(name, "not covered", "the selection cannot be read")
    if gone := [column for column in manifest.columns if column not in source.column_names]:
        return Check(name, "failed", f"the source has no column {gone[0]!r}.")
    indices = picks["index"].to_numpy()
    if len(outside := indices[(indices < 0) | (indices >= len(source))]):
        return Check(name, "failed", f"the source has {len(source):,} rows and none at position {outside[0]}.")
    problems = differing(picks, row_hashes(source.select(indices), manifest.columns))
    return verdict(name, problems, f"{len(picks):,} rows of the source have the hashes of the selection")


def _ask(source: Source) -> str:
    if source.kind == "hub":
        return f"{source.repo_id} at commit {source.revision}"
    if source.kind == "files":
        return ", ".join(repr(file.name) for file in source.files[:3])
    return f"the dataset of {source.num_rows:,} rows"
