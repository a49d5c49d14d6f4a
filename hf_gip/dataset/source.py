"""Where a dataset came from: Hub repositories at their commits, local files by content, or rows of its own.

`datasets` keeps no record of a repository, but its cache does: the builder writes the rows of a repository into
`namespace___name/config/version/commit`, and a `map` writes its output beside the first file of its input. What of
that is evidence of every row is an origin; whatever is not adds an unknown one.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetInfo, config

from hf_gip.hashing import hash_file

COMMIT = re.compile(r"[0-9a-f]{40}")
TRANSFORMED = re.compile(r"(cache-[0-9a-f]{16}|tmp)")  # how `datasets` names what `map` and its kin write
UNKNOWN: dict[str, Any] = {"repo_id": None, "revision": None}


def describe_source(dataset: Dataset, *, id_column: str | None = None) -> dict[str, Any]:
    """What is known of the rows' origin, as plain JSON; never a local path.

    `kind` is `hub` or `files` only while the dataset is as it was loaded: after a `map`, `filter` or `shuffle` the
    positions no longer count in those files, and only the `rows` themselves identify it. `origins` names the
    repositories that the rows stem from in any case.
    """
    described = {
        "kind": "rows",
        "num_rows": len(dataset),
        "columns": dataset.column_names,
        "fingerprint": dataset._fingerprint,
        "id_column": id_column,
        "split": str(dataset.split) if dataset.split is not None else None,
        "origins": find_origins(dataset),
    }
    return described | (_hub(dataset) or _opened(dataset) or {})


def remember_files(dataset: Dataset, paths: Sequence[Path], *, split: str = "train") -> Dataset:
    """Note on a freshly opened dataset which local files it was read from: names, sizes and SHA-256, and the split."""
    files = [{"name": path.name, "size": path.stat().st_size, "sha256": hash_file(path)} for path in sorted(paths)]
    noted = {"fingerprint": dataset._fingerprint, "files": files, "split": split}
    setattr(dataset, "opened_from", noted)  # noqa: B010 — an attribute of this instance
    return dataset


def find_origins(dataset: Dataset) -> list[dict[str, Any]]:
    """The repositories and commits that the rows stem from; one without a `repo_id` where some stem from elsewhere.

    Found after `select`, `filter`, `shuffle`, `sort`, `map`, `cast`, `train_test_split`, `concatenate_datasets`,
    `interleave_datasets` and changes of columns. A column of numbers added to rows of a known origin changes nothing.
    Rows in memory, local files, `save_to_disk` folders and transforms with the cache disabled have an unknown origin,
    besides the repository that their `info` still names.
    """
    found: dict[tuple[str | None, str | None], None] = {}
    for path in _row_files(dataset._data):
        for origin in _origins_of_file(path, dataset.info):
            found[origin] = None
    ordered = sorted(found or [(None, None)], key=lambda origin: (origin[0] is None, origin))
    return [{"repo_id": repo_id, "revision": revision} for repo_id, revision in ordered]


def _row_files(table: Any) -> Iterator[Path | None]:
    """The file of each part of a `datasets` table, None for a part in memory."""
    for row in getattr(table, "blocks", [[table]]):  # blocks of rows, each of parts side by side
        paths = [Path(part.path) if hasattr(part, "path") and part.column_names else None for part in row]
        for part, path in zip(row, paths, strict=True):
            numbers = all(pa.types.is_primitive(kind) for kind in part.schema.types)  # or no column at all
            if path is not None or not (numbers and any(paths)):
                yield path


def _origins_of_file(path: Path | None, info: DatasetInfo) -> list[tuple[str | None, str | None]]:
    """Where the rows of one file come from: certain of a builder's own, by the `info` of what was made of it."""
    if path is None or not COMMIT.fullmatch(path.parent.name):
        named = _builders_of(info, Path(config.HF_DATASETS_CACHE))
        return [origin for builder in named for origin in _repositories(builder)] + [(None, None)]
    folder = path.parent
    found = _repositories(folder)
    if not TRANSFORMED.match(path.name):
        return found or [(None, None)]
    # The output of a `map` over several datasets lies in the folder of the first; its `info` is of no builder then.
    builders = _builders_of(info, folder.parents[3])
    origins = found + [origin for builder in builders if builder != folder for origin in _repositories(builder)]
    return origins if found and folder in builders else [*origins, (None, None)]


def _builders_of(info: DatasetInfo, cache: Path) -> list[Path]:
    """The builders' folders in a cache that hold this `info`; two repositories may agree in name and sizes."""
    if info.dataset_name is None or info.splits is None:
        return []
    fields = ("dataset_name", "config_name", "splits", "download_size", "dataset_size")
    folders = [path.parent for path in cache.glob(f"*{info.dataset_name}/*/*/*/dataset_info.json")]
    built = [(folder, DatasetInfo.from_directory(str(folder))) for folder in folders if COMMIT.fullmatch(folder.name)]
    return [folder for folder, own in built if all(getattr(own, name) == getattr(info, name) for name in fields)]


def _repositories(folder: Path) -> list[tuple[str | None, str | None]]:
    """The repositories that the Hub cache holds at the commit of a builder's folder and that it may stand for."""
    from datasets.naming import camelcase_to_snakecase
    from huggingface_hub import constants

    found: list[tuple[str | None, str | None]] = []
    for snapshot in sorted(Path(constants.HF_HUB_CACHE).glob(f"datasets--*/snapshots/{folder.name}")):
        names = snapshot.parents[1].name.split("--")[1:]
        if "___".join([*names[:-1], camelcase_to_snakecase(names[-1])]) == folder.parts[-4]:
            found.append(("/".join(names), folder.name))
    return found


def _opened(dataset: Dataset) -> dict[str, Any] | None:
    noted = getattr(dataset, "opened_from", None)
    if noted is None or noted["fingerprint"] != dataset._fingerprint:
        return None
    return {"kind": "files", "files": noted["files"], "split": noted["split"]}


def _hub(dataset: Dataset) -> dict[str, Any] | None:
    """Repository and commit of a dataset loaded from the Hub, its rows as they were; the format may be another."""
    files = list(_row_files(dataset._data))
    paths = [path for path in files if path is not None and not TRANSFORMED.match(path.name)]
    if not paths or len(paths) < len(files) or dataset._indices is not None:
        return None
    folder, name = paths[0].parent, dataset.info.config_name
    if not COMMIT.fullmatch(folder.name) or folder.parts[-3] != name:
        return None
    repositories = _repositories(folder)
    if len(repositories) != 1 or not (_whole_split(dataset) or _as_loaded(dataset, folder)):
        return None
    return {"kind": "hub", "repo_id": repositories[0][0], "revision": folder.name, "config": name}


def _whole_split(dataset: Dataset) -> bool:
    """Whether the table is the whole of the builder's split, no column or row of it touched."""
    split = (dataset.info.splits or {}).get(str(dataset.split))
    parts = [part for row in getattr(dataset._data, "blocks", [[dataset._data]]) for part in row]
    # What was done to each mapped file since it was opened; a column in memory was added.
    steps = [step for part in parts for step, *_ in getattr(part, "replays", [("added",)])]
    return split is not None and len(dataset) == split.num_examples and set(steps) <= {"replace_schema_metadata"}


def _as_loaded(dataset: Dataset, folder: Path) -> bool:
    """Whether the fingerprint is still the one a builder gives a split or a slice of it."""
    from datasets.fingerprint import Hasher

    hasher = Hasher()
    hasher.update(Path(*folder.parts[-4:]).as_posix())
    hasher.update(str(dataset.split))
    return dataset._fingerprint == hasher.hexdigest()
