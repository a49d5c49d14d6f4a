"""Whether a folder holds what its manifest says."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset

from hf_gip.dataset.loading import describe_source
from hf_gip.hashing import BATCH_ROWS, hash_file, hash_lines, hash_table, row_hashes, values
from hf_gip.manifest.dataset_card import PICTURE_PATH, card_configs
from hf_gip.manifest.locations import Slot, files_in, slot_roots
from hf_gip.manifest.reader import read_selection
from hf_gip.manifest.schema import CARD_PATH, MANIFEST_PATH, SELECTION_PATH, Manifest, Source, read_manifest

SHOWN = 3


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at.

    Attributes:
        name: What was checked: `manifest`, `files`, `card`, `selection`, `rows`, `source`, `source rows`.
        outcome: `ok`, `failed`, or `not covered` where it could not be looked at.
        sentence: What was found.
        not_covered: Parts of it that could not be looked at, where the rest could.
    """

    name: str
    outcome: Literal["ok", "failed", "not covered"]
    sentence: str
    not_covered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """The checks of one subset; true where none failed.

    Attributes:
        subject: The folder or repository checked.
        checks: In the order they were made.
    """

    subject: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed. What could not be looked at is no failure: read `not_covered`."""
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
        """Name, outcome and sentence of each check, then of each part that could not be looked at."""
        parts = [(check.name, "not covered", part) for check in self.checks for part in check.not_covered]
        return [(check.name, check.outcome, check.sentence) for check in self.checks] + parts

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        width = max((len(check.name) for check in self.checks), default=0)
        lines = [f"{self.subject}: {'verified' if self.ok else 'NOT verified'}"]
        lines += [f"  {outcome:<11}  {name:<{width}}  {sentence}" for name, outcome, sentence in self.lines()]
        return "\n".join(lines)


def verdict(name: str, problems: Sequence[str], fine: str, *not_covered: str) -> Check:
    """A failed check with its first problems, or a good one with what it leaves open."""
    if not problems:
        return Check(name, "ok", fine, not_covered)
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return Check(name, "failed", "; ".join(problems[:SHOWN]) + more + ".")


UNLISTED = {CARD_PATH, MANIFEST_PATH, PICTURE_PATH, ".gitattributes"}  # without a hash: the card may be edited
CARD_BYTES = 1 << 20
UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, OverflowError)


def check_manifest(folder: Path, manifest: Manifest) -> Check:
    """The manifest's own digest, and its bytes as this library writes them."""
    problems = []
    if manifest.content_digest() != manifest.digest:
        problems.append(f"a field of {MANIFEST_PATH} was changed: its content does not fit its `digest`")
    elif (folder / MANIFEST_PATH).read_bytes() != manifest.to_bytes():
        problems.append(f"{MANIFEST_PATH} was rewritten: its bytes are not in canonical form")
    return verdict("manifest", problems, f"format {manifest.format}, {manifest.k:,} rows by {manifest.method}")


def check_files(folder: Path, manifest: Manifest, present: Mapping[str, int], *, shared: bool = False) -> Check:
    """Every listed file is there with its hash, and no other.

    Args:
        folder: Where the files are; one whose size is wrong is not read.
        manifest: What should be there.
        present: Every file that is there, with its size in bytes.
        shared: Whether other files than the selection's and this split's may be there, as in a repository.

    Returns:
        The check.
    """
    problems = []
    for path, entry in sorted(manifest.files.items()):
        if path not in present:
            problems.append(f"{path} is missing")
        elif present[path] != entry.size or _sha256(folder / path) != entry.sha256:
            problems.append(f"{path} was changed: its SHA-256 is not the manifest's")
    others = sorted(set(present) - set(manifest.files) - UNLISTED)
    ours = [path for path in others if not shared or path.startswith(("gip/", f"data/{manifest.split}-"))]
    problems += [f"{path} is not listed in the manifest" for path in ours]
    beside = [path for path in others if path not in ours]
    if PICTURE_PATH in present:
        beside.append(PICTURE_PATH)
    more = f" and {len(beside) - SHOWN} more" if len(beside) > SHOWN else ""
    others = [f"{', '.join(beside[:SHOWN])}{more}, without a hash in the manifest"] if beside else []
    return verdict("files", problems, f"{len(manifest.files)} files as listed", *others)


def check_card(folder: Path, slots: Sequence[Slot], *, shared: bool = False) -> Check:
    """The card leads `load_dataset` to the listed files; its text is free."""
    try:
        configs = _configs(folder / CARD_PATH)
    except (OSError, ValueError) as error:
        return Check("card", "failed", f"{CARD_PATH} cannot be read: {error}.")
    wanted = card_configs(slots)
    problems = [
        f"configuration {expected['config_name']!r} does not point to the files of the manifest"
        for expected in wanted
        if not _leads(expected, configs, shared)
    ]
    defaults = [config for config in configs if config.get("default")]
    if not shared and defaults not in ([], wanted[:1]):
        problems.append("another configuration is the default")
    mine = {config["config_name"] for config in wanted}
    foreign = [config.get("config_name") for config in defaults if config.get("config_name") not in mine]
    others = [f"the configuration {name!r}, which is the default" for name in foreign]
    return verdict("card", problems, "its configurations point to these files", "its text", *others)


def _leads(expected: dict[str, Any], configs: list[dict[str, Any]], shared: bool) -> bool:
    """Whether the card has this configuration once, and with these files; elsewhere it may hold other splits too."""
    found = [config for config in configs if config.get("config_name", "default") == expected["config_name"]]
    if not shared:
        return found == [expected]
    if len(found) != 1 or "data_dir" in found[0] or not isinstance(found[0].get("data_files"), list):
        return False
    splits = {entry["split"] for entry in expected["data_files"]}
    entries = [entry for entry in found[0]["data_files"] if isinstance(entry, dict)]
    return [entry for entry in entries if entry.get("split") in splits] == expected["data_files"]


def check_selection(folder: Path, manifest: Manifest) -> tuple[Check, pa.Table | None]:
    """Ranks, positions, gains and hashes are those of the manifest."""
    try:
        table = read_selection(folder / SELECTION_PATH)
    except ValueError as error:
        return Check("selection", "failed", str(error)), None
    problems = []
    if len(table) != manifest.k or any(rank != i for i, rank in enumerate(values(table["rank"]))):
        problems.append(f"the ranks are not 0 to {manifest.k - 1} in order")
    problems += _index_problems(table, manifest)
    if hash_lines(values(table["row_sha256"])) != manifest.rows_sha256:
        problems.append("a row hash was changed: they do not fit `rows_sha256`")
    objective = _sum(table["gain"])
    if not math.isclose(objective, manifest.objective, rel_tol=1e-9, abs_tol=1e-12):
        problems.append(
            f"a gain was changed: they add up to {objective:.6g}, `objective` says {manifest.objective:.6g}"
        )
    if manifest.captured != (manifest.objective / manifest.total if manifest.total else None):
        problems.append("`captured` is not `objective` / `total`")
    check = verdict("selection", problems, "ranks, positions, gains and row hashes fit the manifest")
    return check, table


def check_rows(folder: Path, manifest: Manifest, picks: pa.Table | None) -> Check:
    """The published rows have the hashes of the selection, one by one."""
    if not manifest.include_rows:
        return Check("rows", "not covered", "saved without its rows")
    if picks is None:
        return Check("rows", "not covered", "the selection cannot be read")
    try:
        found = (name for path in manifest.shards() for name in _shard_hashes(folder, path, manifest))
        problems = differing(picks, found)
    except UNREADABLE as error:
        return Check("rows", "failed", f"the rows cannot be read: {_line(error)}.")
    return verdict("rows", problems, f"{len(picks):,} rows have the hashes of the selection")


def differing(picks: pa.Table, found: Iterator[str]) -> list[str]:
    """One phrase for each row whose hash is not the one in `picks`; only the first few are worded."""
    problems, pairs = [], zip_longest(values(picks["row_sha256"]), values(picks["row_id"]), found)
    for rank, (want, name, got) in enumerate(pairs):
        if want != got:
            what = "is missing" if got is None else "is one too many" if want is None else "was changed"
            problems.append(f"row {name!r} at rank {rank} {what}" if len(problems) < SHOWN else "")
    return problems


def _index_problems(table: pa.Table, manifest: Manifest) -> Iterator[str]:
    if hash_lines(values(table["index"])) != manifest.indices_sha256:
        yield "an index was changed: they do not fit `indices_sha256`"
    bounds: Any = pc.call_function("min_max", [table["index"]]).as_py()
    if len(table) and not (bounds["min"] >= 0 and bounds["max"] < manifest.source.num_rows):
        yield f"an index lies outside the {manifest.source.num_rows:,} rows of the source"
    if table["epoch"].null_count == len(table) and pc.call_function("count_distinct", [table["index"]]).as_py() < len(
        table
    ):
        yield "an index comes twice"


def _sum(gains: pa.ChunkedArray) -> float:
    try:
        return math.fsum(values(gains))
    except (ValueError, OverflowError):  # infinities of both signs, or a sum beyond all floats
        return math.nan


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


def _configs(path: Path) -> list[dict[str, Any]]:
    """The configurations in a card's front matter.

    Raises:
        ValueError: If there is no front matter or it is no YAML.
    """
    import yaml

    with path.open("rb") as file:
        data = file.read(CARD_BYTES + 1)
    if len(data) > CARD_BYTES:
        raise ValueError(f"it is longer than {CARD_BYTES} bytes")
    text = data.decode()
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0]:
        raise ValueError("it has no YAML front matter")
    try:
        metadata = yaml.safe_load(parts[1])
    except (yaml.YAMLError, RecursionError, ValueError):  # ValueError: a date that is none
        raise ValueError("its front matter is no YAML") from None
    configs = metadata.get("configs") if isinstance(metadata, dict) else None
    return [config for config in configs if isinstance(config, dict)] if isinstance(configs, list) else []


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


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


Opener = Callable[[Manifest], Dataset | None]


def verify_folder(
    folder: Path,
    *,
    source: Opener | None = None,
    present: Mapping[str, int] | None = None,
    subject: str | None = None,
) -> Report:
    """The checks of every subset in a folder.

    Args:
        folder: Where the files are.
        source: Opens the pool that a manifest names; None leaves the source alone.
        present: Every file of the repository that `folder` was fetched from, with its size; None for a folder by
            itself, where nothing else may stand.
        subject: What the report calls the place.

    Returns:
        The report.
    """
    shared, present = present is not None, files_in(folder) if present is None else present
    checks: list[Check] = []
    try:
        roots = slot_roots(present) or [""]
    except ValueError as error:
        return Report(subject or str(folder), (Check("manifest", "failed", str(error)),))
    slots = []
    for root in roots:
        try:
            slots.append(Slot(root, read_manifest(folder / root)))
        except (OSError, ValueError) as error:
            checks.append(_named(Check("manifest", "failed", str(error)), root))
    if double := [slot.name for slot in slots if sum(other.name == slot.name for other in slots) > 1]:
        checks.append(Check("manifest", "failed", f"two manifests are of {double[0]!r}."))
    card = check_card(folder, slots, shared=shared) if slots else None
    for slot in slots:
        inside = _inside(present, slot.root, roots)
        found = _slot_checks(folder / slot.root, slot.manifest, inside, source, shared)
        checks += [_named(check, slot.root) for check in found]
        if slot is slots[0] and card is not None:
            checks.insert(len(checks) - len(found) + 2, card)
    return Report(subject or str(folder), tuple(checks))


def _slot_checks(
    folder: Path, manifest: Manifest, present: Mapping[str, int], source: Opener | None, shared: bool
) -> list[Check]:
    from datasets.exceptions import DatasetsError

    selection, picks = check_selection(folder, manifest)
    selection = replace(selection, not_covered=("whether the method chooses these rows: see `reproduce`",))
    checks = [
        check_manifest(folder, manifest),
        check_files(folder, manifest, present, shared=shared),
        selection,
        check_rows(folder, manifest, picks),
    ]
    try:
        pool = None if source is None else source(manifest)
    except (OSError, ValueError, DatasetsError) as error:
        sentence = " ".join(str(error).split())
        return [*checks, Check("source", "failed", f"the source cannot be read: {sentence}")]
    return [*checks, *check_source(manifest, picks, pool)]


def _inside(present: Mapping[str, int], root: str, roots: list[str]) -> dict[str, int]:
    """The files under `root` that belong to no subset further in."""
    deeper = tuple(other for other in roots if other != root and other.startswith(root))
    return {
        path.removeprefix(root): size
        for path, size in present.items()
        if path.startswith(root) and not (deeper and path.startswith(deeper))
    }


def _named(check: Check, root: str) -> Check:
    where = root.rstrip("/")
    return Check(f"{check.name} of {where}", check.outcome, check.sentence) if where else check
