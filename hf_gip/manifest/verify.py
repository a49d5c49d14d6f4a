"""Whether a folder holds what its manifest says: manifest, files, card, picks, rows, and the source they came from."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset
from datasets.exceptions import DatasetsError

from hf_gip.dataset.loading import describe_source
from hf_gip.hashing import BATCH_ROWS, hash_file, hash_lines, hash_pool, hash_table, row_hashes, values
from hf_gip.io import first_line
from hf_gip.manifest.dataset_card import PICTURE_PATH, card_configs, split_card
from hf_gip.manifest.locations import SubsetLocation, list_files, subset_roots
from hf_gip.manifest.reader import read_selection_table
from hf_gip.manifest.schema import (
    CARD_PATH,
    MANIFEST_PATH,
    SELECTION_PATH,
    Manifest,
    Source,
    canonical_bytes,
    content_digest,
    read_manifest,
)

MAX_LISTED = 3  # problems of one check that are worded
UNLISTED = {CARD_PATH, MANIFEST_PATH, PICTURE_PATH, ".gitattributes"}  # without a hash: the card may be edited
CARD_BYTES = 1 << 20
UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, OverflowError)
PoolOpener = Callable[[Manifest], Dataset | None]


@dataclass(frozen=True, slots=True)
class Check:
    """One part of a subset, checked.

    Attributes:
        name: What was checked: `manifest`, `files`, `card`, `selection`, `rows`, `source`, `source rows`.
        outcome: `ok`, `failed`, or `not covered` where it could not be checked.
        sentence: The result in words.
        not_covered: Parts of it that could not be checked, where the rest could.
    """

    name: str
    outcome: Literal["ok", "failed", "not covered"]
    sentence: str
    not_covered: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, problems: Sequence[str], success: str, *not_covered: str) -> "Check":
        """A failed check with its first problems, or a good one with what it leaves open."""
        if not problems:
            return cls(name, "ok", success, not_covered)
        more = f"; and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
        return cls(name, "failed", "; ".join(problems[:MAX_LISTED]) + more + ".")


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """The checks of one subset; true where none failed.

    Attributes:
        subject: The folder or repository checked.
        checks: In the order they were made.
    """

    subject: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed. A part that could not be checked is no failure: read `not_covered`."""
        return all(check.outcome != "failed" for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.outcome == "failed")

    @property
    def not_covered(self) -> tuple[str, ...]:
        """What could not be checked, each with the name of its check."""
        return tuple(f"{name}: {sentence}" for name, outcome, sentence in self.lines() if outcome == "not covered")

    def lines(self) -> list[tuple[str, str, str]]:
        """Name, outcome and sentence of each check, then of each part that could not be checked."""
        parts = [(check.name, "not covered", part) for check in self.checks for part in check.not_covered]
        return [(check.name, check.outcome, check.sentence) for check in self.checks] + parts

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        width = max((len(check.name) for check in self.checks), default=0)
        lines = [f"{self.subject}: {'verified' if self.ok else 'NOT verified'}"]
        lines += [f"  {outcome:<11}  {name:<{width}}  {sentence}" for name, outcome, sentence in self.lines()]
        return "\n".join(lines)


def verify_folder(
    folder: Path,
    *,
    open_pool: PoolOpener | None = None,
    repository_files: Mapping[str, int] | None = None,
    subject: str | None = None,
) -> VerificationReport:
    """The checks of every subset in a folder.

    Args:
        folder: Where the files are.
        open_pool: Opens the pool that a manifest names; None leaves the source unchecked.
        repository_files: Every file of the repository that `folder` was fetched from, with its size; None for a
            folder by itself, in which no other file may be.
        subject: What the report calls the folder.

    Returns:
        The report.
    """
    shared = repository_files is not None
    files = list_files(folder) if repository_files is None else repository_files
    checks: list[Check] = []
    try:
        roots = subset_roots(files) or [""]
    except ValueError as error:
        return VerificationReport(subject or str(folder), (Check("manifest", "failed", str(error)),))
    locations = []
    for root in roots:
        try:
            locations.append(SubsetLocation(root, read_manifest(folder / root)))
        except (OSError, ValueError) as error:
            checks.append(_name_root(Check("manifest", "failed", str(error)), root))
    names = [location.name for location in locations]
    if double := [name for name in names if names.count(name) > 1]:
        checks.append(Check("manifest", "failed", f"two manifests are of {double[0]!r}."))
    for location in locations:
        subset_checks = _check_subset(folder, location, _files_of(files, location.root, roots), open_pool, shared)
        subset_checks = [_name_root(check, location.root) for check in subset_checks]
        if location is locations[0]:
            subset_checks.insert(2, check_card(folder, locations, shared=shared))
        checks += subset_checks
    return VerificationReport(subject or str(folder), tuple(checks))


def _check_subset(
    folder: Path, location: SubsetLocation, files: Mapping[str, int], open_pool: PoolOpener | None, shared: bool
) -> list[Check]:
    folder, manifest = folder / location.root, location.manifest
    selection, picks = check_selection(folder, manifest)
    selection = replace(selection, not_covered=("whether the method chooses these rows: see `reproduce`",))
    checks = [
        check_manifest(folder, manifest),
        check_files(folder, manifest, files, shared=shared),
        selection,
        check_rows(folder, manifest, picks),
    ]
    try:
        pool = None if open_pool is None else open_pool(manifest)
    except (OSError, ValueError, DatasetsError) as error:
        sentence = " ".join(str(error).split())
        return [*checks, Check("source", "failed", f"the source cannot be read: {sentence}")]
    return [*checks, *check_source(manifest, picks, pool)]


def _files_of(files: Mapping[str, int], root: str, roots: list[str]) -> dict[str, int]:
    """The files under `root` that belong to no subset further in."""
    deeper = tuple(other for other in roots if other != root and other.startswith(root))
    return {
        path.removeprefix(root): size
        for path, size in files.items()
        if path.startswith(root) and not (deeper and path.startswith(deeper))
    }


def _name_root(check: Check, root: str) -> Check:
    return replace(check, name=f"{check.name} of {root.rstrip('/')}") if root else check


# --- what lies in the folder -----------------------------------------------------------------------------------------


def check_manifest(folder: Path, manifest: Manifest) -> Check:
    """The manifest's own digest, over the content as it was written, and its bytes as this library writes them."""
    data = (folder / MANIFEST_PATH).read_bytes()
    document = json.loads(data)
    problems = []
    if content_digest(document) != manifest.digest:
        problems.append(f"a field of {MANIFEST_PATH} was changed: its content does not fit its `digest`")
    elif data != canonical_bytes(document):
        problems.append(f"{MANIFEST_PATH} was rewritten: its bytes are not in canonical form")
    return Check.of("manifest", problems, f"format {document.get('format')}, {manifest.k:,} rows by {manifest.method}")


def check_files(folder: Path, manifest: Manifest, files: Mapping[str, int], *, shared: bool = False) -> Check:
    """Every listed file is there with its hash, and no other.

    Args:
        folder: Where the files are; one whose size is wrong is not read.
        manifest: What should be there.
        files: Every file that is there, with its size in bytes.
        shared: Whether other files than the selection's and this split's may be there, as in a repository.

    Returns:
        The check.
    """
    problems = []
    for path, entry in sorted(manifest.files.items()):
        if path not in files:
            problems.append(f"{path} is missing")
        elif files[path] != entry.size or _sha256(folder / path) != entry.sha256:
            problems.append(f"{path} was changed: its SHA-256 is not the manifest's")
    foreign = sorted(set(files) - set(manifest.files) - UNLISTED)
    intruders = [path for path in foreign if not shared or path.startswith(("gip/", f"data/{manifest.split}-"))]
    problems += [f"{path} is not listed in the manifest" for path in intruders]
    unhashed = [path for path in foreign if path not in intruders]
    if PICTURE_PATH in files:
        unhashed.append(PICTURE_PATH)
    more = f" and {len(unhashed) - MAX_LISTED} more" if len(unhashed) > MAX_LISTED else ""
    not_covered = [f"{', '.join(unhashed[:MAX_LISTED])}{more}, without a hash in the manifest"] if unhashed else []
    return Check.of("files", problems, f"{len(manifest.files)} files as listed", *not_covered)


def check_card(folder: Path, locations: Sequence[SubsetLocation], *, shared: bool = False) -> Check:
    """The card leads `load_dataset` to the listed files; its text is free."""
    try:
        configs = _read_configs(folder / CARD_PATH)
    except (OSError, ValueError) as error:
        return Check("card", "failed", f"{CARD_PATH} cannot be read: {str(error).rstrip('.')}.")
    expected = card_configs(locations)
    problems = [
        f"configuration {config['config_name']!r} does not point to the files of the manifest"
        for config in expected
        if not _is_listed(config, configs, shared)
    ]
    defaults = [config for config in configs if config.get("default")]
    if not shared and defaults not in ([], expected[:1]):
        problems.append("another configuration is the default")
    names = {config["config_name"] for config in expected}
    foreign = [config.get("config_name") for config in defaults if config.get("config_name") not in names]
    not_covered = [f"the configuration {name!r}, which is the default" for name in foreign]
    return Check.of("card", problems, "its configurations point to these files", "its text", *not_covered)


def _read_configs(path: Path) -> list[dict[str, Any]]:
    """The configurations in a card's metadata.

    Raises:
        ValueError: If the card is too long or its metadata is no YAML.
    """
    with path.open("rb") as file:
        data = file.read(CARD_BYTES + 1)
    if len(data) > CARD_BYTES:
        raise ValueError(f"it is longer than {CARD_BYTES} bytes.")
    configs = split_card(data.decode())[0].get("configs")
    return [config for config in configs if isinstance(config, dict)] if isinstance(configs, list) else []


def _is_listed(expected: dict[str, Any], configs: list[dict[str, Any]], shared: bool) -> bool:
    """Whether the card has this configuration once, and with these files; elsewhere it may hold other splits too."""
    named = [config for config in configs if config.get("config_name", "default") == expected["config_name"]]
    if not shared:
        return named == [expected]
    if len(named) != 1 or "data_dir" in named[0] or not isinstance(named[0].get("data_files"), list):
        return False
    splits = {entry["split"] for entry in expected["data_files"]}
    entries = [entry for entry in named[0]["data_files"] if isinstance(entry, dict)]
    return [entry for entry in entries if entry.get("split") in splits] == expected["data_files"]


def check_selection(folder: Path, manifest: Manifest) -> tuple[Check, pa.Table | None]:
    """Ranks, positions, gains and hashes are those of the manifest."""
    try:
        picks = read_selection_table(folder / SELECTION_PATH)
    except ValueError as error:
        return Check("selection", "failed", str(error)), None
    problems = []
    if len(picks) != manifest.k or any(rank != i for i, rank in enumerate(values(picks["rank"]))):
        problems.append(f"the ranks are not 0 to {manifest.k - 1} in order")
    problems += _index_problems(picks, manifest)
    if hash_lines(values(picks["row_sha256"])) != manifest.rows_sha256:
        problems.append("a row hash was changed: they do not fit `rows_sha256`")
    objective = _sum(picks["gain"])
    if not math.isclose(objective, manifest.objective, rel_tol=1e-9, abs_tol=1e-12):
        problems.append(
            f"a gain was changed: they add up to {objective:.6g}, `objective` says {manifest.objective:.6g}"
        )
    if manifest.captured != (manifest.objective / manifest.total if manifest.total else None):
        problems.append("`captured` is not `objective` / `total`")
    return Check.of("selection", problems, "ranks, positions, gains and row hashes fit the manifest"), picks


def _index_problems(picks: pa.Table, manifest: Manifest) -> Iterator[str]:
    if hash_lines(values(picks["index"])) != manifest.indices_sha256:
        yield "an index was changed: they do not fit `indices_sha256`"
    bounds: Any = pc.call_function("min_max", [picks["index"]]).as_py()
    if len(picks) and not (bounds["min"] >= 0 and bounds["max"] < manifest.source.num_rows):
        yield f"an index lies outside the {manifest.source.num_rows:,} rows of the source"
    distinct: Any = pc.call_function("count_distinct", [picks["index"]]).as_py()
    if picks["epoch"].null_count == len(picks) and distinct < len(picks):
        yield "an index comes twice"


def _sum(gains: pa.ChunkedArray) -> float:
    try:
        return math.fsum(values(gains))
    except (ValueError, OverflowError):  # infinities of both signs, or a sum beyond all floats
        return math.nan


def check_rows(folder: Path, manifest: Manifest, picks: pa.Table | None) -> Check:
    """The published rows have the hashes of the selection, one by one."""
    if not manifest.include_rows:
        return Check("rows", "not covered", "saved without its rows")
    if picks is None:
        return Check("rows", "not covered", "the selection cannot be read")
    try:
        hashes = (row_hash for path in manifest.shards() for row_hash in _shard_hashes(folder, path, manifest))
        problems = _row_problems(picks, hashes)
    except UNREADABLE as error:
        return Check("rows", "failed", f"the rows cannot be read: {first_line(error).rstrip('.')}.")
    return Check.of("rows", problems, f"{len(picks):,} rows have the hashes of the selection")


def _row_problems(picks: pa.Table, hashes: Iterable[str]) -> list[str]:
    """One phrase for each row whose hash is not the one in `picks`; only the first few are worded."""
    problems, pairs = [], zip_longest(values(picks["row_sha256"]), values(picks["row_id"]), hashes)
    for rank, (recorded, name, row_hash) in enumerate(pairs):
        if recorded != row_hash:
            change = "is missing" if row_hash is None else "is one too many" if recorded is None else "was changed"
            problems.append(f"row {name!r} at rank {rank} {change}" if len(problems) < MAX_LISTED else "")
    return problems


def _shard_hashes(folder: Path, path: str, manifest: Manifest) -> Iterator[str]:
    """Hashes of one shard's rows.

    Raises:
        ValueError: If its columns or its number of rows are not those of the manifest.
    """
    with pq.ParquetFile(folder / path) as file:
        if file.schema_arrow.names != manifest.columns:
            raise ValueError(f"{path} has columns {file.schema_arrow.names}, the manifest {manifest.columns}")
        if file.metadata.num_rows != manifest.files[path].rows:
            raise ValueError(f"{path} has {file.metadata.num_rows} rows, the manifest {manifest.files[path].rows}")
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            table = pa.Table.from_batches([batch])
            table.validate(full=True)
            yield from hash_table(table, manifest.columns)


def _sha256(path: Path) -> str:
    try:
        return hash_file(path)
    except OSError:
        return ""


# --- the source ------------------------------------------------------------------------------------------------------


def check_source(manifest: Manifest, picks: pa.Table | None, pool: Dataset | None) -> list[Check]:
    """The pool as a whole, and its rows at the chosen positions."""
    if pool is None:
        return [Check("source", "not covered", f"not at hand: give {_source_words(manifest.source)} as `source`")]
    if picks is None:
        return [
            _check_pool(manifest.source, pool),
            Check("source rows", "not covered", "the selection cannot be read"),
        ]
    problems = chosen_row_problems(manifest, picks, pool)
    success = f"{len(picks):,} rows of the source have the hashes of the selection"
    return [_check_pool(manifest.source, pool), Check.of("source rows", problems, success)]


def chosen_row_problems(manifest: Manifest, picks: pa.Table, pool: Dataset) -> list[str]:
    """How the rows of `pool` at the chosen positions differ from those that were chosen, one phrase each."""
    if missing := [column for column in manifest.columns if column not in pool.column_names]:
        return [f"the source has no column {missing[0]!r}"]
    indices = picks["index"].to_numpy()
    if len(outside := indices[(indices < 0) | (indices >= len(pool))]):
        return [f"the source has {len(pool):,} rows and none at position {outside[0]}"]
    return _row_problems(picks, row_hashes(pool.select(indices), manifest.columns))


def _check_pool(recorded: Source, pool: Dataset) -> Check:
    problems, not_covered = [], []
    if len(pool) != recorded.num_rows:
        problems.append(f"the source has {len(pool):,} rows, the manifest says {recorded.num_rows:,}")
    if missing := [name for name in recorded.columns if name not in pool.column_names]:
        problems.append(f"the source has no column {missing[0]!r}")
    elif recorded.rows_sha256 is not None:
        if hash_pool(pool, recorded.columns) != recorded.rows_sha256:
            problems.append("a row of the source was changed: its rows do not fit `rows_sha256`")
    else:
        source = describe_source(pool)
        if recorded.kind == source["kind"] == "hub":
            problems += _commit_problems(recorded, source)
        elif recorded.kind == source["kind"] == "files":
            digests = {file["sha256"] for file in source["files"]}
            problems += [
                f"file {file.name!r} of the source was changed: its SHA-256 is not the manifest's"
                for file in recorded.files
                if file.sha256 not in digests
            ]
        else:
            words = _source_words(recorded)
            not_covered.append(f"the rows of the source that were not chosen: it was not read as {words}")
    return Check.of("source", problems, f"{len(pool):,} rows, as recorded", *not_covered)


def _commit_problems(recorded: Source, source: dict[str, Any]) -> list[str]:
    if source["revision"] != recorded.revision:
        return [f"the source is at commit {source['revision']}, the manifest says {recorded.revision}"]
    for name in ("config", "split"):
        if source[name] != (expected := getattr(recorded, name)):
            return [f"the source is the {name} {source[name]!r}, the manifest says {expected!r}"]
    return []


def _source_words(source: Source) -> str:
    if source.kind == "hub":
        return f"{source.repo_id} at commit {source.revision}"
    if source.kind == "files":
        return ", ".join(repr(file.name) for file in source.files[:3])
    return f"the dataset of {source.num_rows:,} rows"
