"""Is a saved folder what its manifest says: files, card, selection and rows."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hf_gip.hashing import BATCH_ROWS, hash_file, hash_lines, hash_table, values
from hf_gip.manifest.card import PICTURE_PATH, card_configs
from hf_gip.manifest.report import SHOWN, Check, verdict
from hf_gip.manifest.schema import CARD_PATH, MANIFEST_PATH, SELECTION_PATH, Manifest
from hf_gip.manifest.selection_file import read_selection
from hf_gip.manifest.slots import Slot

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
