"""Where rows come from: files, folders, the Hub."""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset, DatasetInfo, config
from datasets.data_files import DataFilesList
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from pyarrow import parquet

from hf_gip.hashing import hash_file, hash_json
from hf_gip.io import first_line

COMMIT = re.compile(r"[0-9a-f]{40}")
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
    return described | (_hub_source(dataset) or _opened(dataset) or {})


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
    origins: dict[tuple[str | None, str | None], None] = {}
    for path in _row_files(dataset._data):
        for origin in _origins_of_file(path, dataset.info):
            origins[origin] = None
    ordered = sorted(origins or [(None, None)], key=lambda origin: (origin[0] is None, origin))
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
    repositories = _repositories(folder)
    if _is_builders_own(path):
        return repositories or [(None, None)]
    # The output of a `map` over several datasets lies in the folder of the first; its `info` is of no builder then.
    builders = _builders_of(info, folder.parents[3])
    origins = repositories + [origin for builder in builders if builder != folder for origin in _repositories(builder)]
    return origins if repositories and folder in builders else [*origins, (None, None)]


def _is_builders_own(path: Path) -> bool:
    """Whether a file in a builder's folder was written by it, and not by a `map` that was told to write there."""
    name = path.parts[-5].rpartition("___")[2] if len(path.parts) > 4 else ""
    return re.fullmatch(rf"{re.escape(name)}-\w+(\.\w+)*(-\d{{5}}-of-\d{{5}})?\.arrow", path.name) is not None


def _builders_of(info: DatasetInfo, cache: Path) -> list[Path]:
    """The builders' folders in a cache that hold this `info`; two repositories may agree in name and sizes."""
    if info.dataset_name is None or info.splits is None:
        return []
    fields = ("dataset_name", "config_name", "splits", "download_size", "dataset_size")
    folders = [path.parent for path in cache.glob(f"*{info.dataset_name}/*/*/*/dataset_info.json")]
    built = [(folder, DatasetInfo.from_directory(str(folder))) for folder in folders if COMMIT.fullmatch(folder.name)]
    return [
        folder
        for folder, candidate in built
        if all(getattr(candidate, name) == getattr(info, name) for name in fields)
    ]


def _repositories(folder: Path) -> list[tuple[str | None, str | None]]:
    """The repositories that the Hub cache holds at the commit of a builder's folder and that it may stand for."""
    from datasets.naming import camelcase_to_snakecase
    from huggingface_hub import constants

    repositories: list[tuple[str | None, str | None]] = []
    for snapshot in sorted(Path(constants.HF_HUB_CACHE).glob(f"datasets--*/snapshots/{folder.name}")):
        names = snapshot.parents[1].name.split("--")[1:]
        if "___".join([*names[:-1], camelcase_to_snakecase(names[-1])]) == folder.parts[-4]:
            repositories.append(("/".join(names), folder.name))
    return repositories


def _opened(dataset: Dataset) -> dict[str, Any] | None:
    noted = getattr(dataset, "opened_from", None)
    if noted is None or noted["fingerprint"] != dataset._fingerprint:
        return None
    return {"kind": "files", "files": noted["files"], "split": noted["split"]}


def _hub_source(dataset: Dataset) -> dict[str, Any] | None:
    """Repository and commit of a dataset loaded from the Hub, its rows as they were; the format may be another."""
    files = list(_row_files(dataset._data))
    paths = [path for path in files if path is not None and _is_builders_own(path)]
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


READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".txt": "text"}


def open_dataset(
    source: str,
    *,
    split: str = "train",
    config: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    prefix: str = "",
) -> Dataset:
    """Load one split of a dataset as data: no code of the source is run.

    What a local file holds decides what is read, never its time: a file whose content was read before comes from the
    datasets cache, any other content is read anew. Cost: one pass over the file's bytes, about 2 GB/s.

    Args:
        source: A local `.parquet`, `.jsonl`, `.json`, `.csv`, `.tsv` or `.txt` file, the text ones also as `.gz`, a
            folder written by `save_to_disk`, or a Hub id such as `"tatsu-lab/alpaca"`.
        split: The split of a Hub dataset or of a saved `DatasetDict`, *optional*, defaults to `"train"`; a file and a
            saved `Dataset` have none.
        config: The configuration of a Hub dataset, *optional*.
        revision: The revision of a Hub dataset, *optional*.
        token: The token for the Hub, instead of the stored one, *optional*.
        prefix: What stands before `split`, `config` and `revision` in the caller's own options, such as
            `"target_"`, for messages, *optional*, defaults to `""`.

    Returns:
        The rows.

    Raises:
        FileNotFoundError: If nothing is there, on this disk or on the Hub.
        ValueError: If the file cannot be read, a split or configuration does not exist, or one is named for a source
            that has none.
    """
    path = Path(source).expanduser()
    if split != "train" and not has_splits(source):
        raise ValueError(f"`{prefix}split` must be left out for {path.name!r}, which has no splits, got {split!r}.")
    if is_local(source):
        for name, value in (("config", config), ("revision", revision)):
            if value is not None:
                raise ValueError(
                    f"`{prefix}{name}` must be left out for {path.name!r}, which is not on the Hub, got {value!r}."
                )
        return _saved(path, split, prefix) if path.is_dir() else _file(path)
    try:
        validate_repo_id(source)
    except HFValidationError:
        raise FileNotFoundError(
            f"no file or folder {source!r}: check the path, or give a Hub id such as 'user/name'."
        ) from None
    return _hub(source, config, split=split, revision=revision, token=token)


def is_local(source: str) -> bool:
    """Whether `source` is on this disk, or has the name of a data file."""
    path = Path(source).expanduser()
    return path.exists() or _reader(path) is not None


def has_splits(source: str) -> bool:
    """Whether what `source` names has splits: the Hub's datasets and a saved `DatasetDict`."""
    return not is_local(source) or (Path(source).expanduser() / "dataset_dict.json").is_file()


def open_recorded(
    source: str, *, split: str | None, config: str | None = None, revision: str | None = None, **options: Any
) -> Dataset:
    """`open_dataset` as a manifest records it; a copy of that split on this disk has no configuration or revision."""
    split = (split if has_splits(source) else None) or "train"
    version = {} if is_local(source) else {"config": config, "revision": revision}
    return open_dataset(source, split=split, **version, **options)


def _hub(source: str, config: str | None, **options: Any) -> Dataset:
    """A dataset of the Hub.

    Raises:
        FileNotFoundError: If the Hub shows none of that name; it may have been meant as a path.
        RuntimeError: As `datasets` raises it.
        ValueError: If only a script of the repository could read it.
    """
    try:
        return datasets.load_dataset(source, config, **options)
    except (FileNotFoundError, ConnectionError) as error:
        words = str(error) if isinstance(error, DatasetsError | ConnectionError) else "it could not be asked"
        reason = words.splitlines()[0].rstrip(".")
        raise FileNotFoundError(
            f"{source!r} is no file or folder here, and no dataset was found on the Hub ({reason}): check the path, "
            "or the dataset's name, the connection and `hf auth login`."
        ) from error
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise ValueError(
            f"{source!r} is read by a script of its own, and no code of a dataset is run here: give "
            '`revision="refs/convert/parquet"`, the copy as data that the Hub makes, or a file of the rows.'
        ) from error


def _file(path: Path) -> Dataset:
    """The rows of a data file.

    Raises:
        ChangedFileError: If it becomes another while it is read.
        ValueError: If it cannot be read, or holds no row.
    """
    kind = _check_file(path)
    options: dict[str, Any] = {"delimiter": "\t"} if ".tsv" in path.name.lower() else {}
    try:
        loaded = load_files(kind, [path], **options)
    except ChangedFileError:
        raise
    except Exception as error:  # each reader raises its own kinds; the cause goes along
        if "corresponds to no data" in str(error):  # what `datasets` says of a file without rows
            raise ValueError(f"{path.name!r} must hold at least one row, got 0: check the file.") from None
        raise ValueError(f"cannot read {path.name!r} as {kind}: {_cause(error)}") from error
    return remember_files(loaded, [path])


class ChangedFileError(ValueError):
    """A file became another while it was read."""


def load_files(kind: str, paths: Sequence[Path], *, split: str = "train", **options: Any) -> Dataset:
    """The rows of data files through the datasets cache, which knows them by their content, never by their time.

    Args:
        kind: The packaged reader.
        paths: The files, in order.
        split: What the rows are called, *optional*, defaults to `"train"`.
        options: For the reader.

    Raises:
        ChangedFileError: If a file changes while it is read.
    """
    contents = [hash_file(path) for path in paths]
    # What `datasets` keys cache and fingerprint by, the content in place of the file's time
    files = DataFilesList([path.absolute().as_posix() for path in paths], [(content,) for content in contents])
    loaded = datasets.load_dataset(kind, data_files={split: files}, split=split, **options)
    for path, content in zip(paths, contents, strict=True):
        if hash_file(path) != content:
            for entry in loaded.cache_files:  # they may hold other rows than their key says
                shutil.rmtree(Path(entry["filename"]).parent, ignore_errors=True)
            raise ChangedFileError(
                f"{path.name!r} must stay as it is while it is read, got other content in the end: try again."
            )
    return loaded


def _check_file(path: Path) -> str:
    """The reader of a data file that has something to read.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If its format is unknown, or it is empty.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}: check the path.")
    kind = _reader(path)
    if kind is None:
        raise ValueError(f"cannot tell the format of {path.name!r}: use one of {', '.join(READERS)}.")
    if not path.stat().st_size:
        raise ValueError(f"{path.name!r} must hold at least one row, got an empty file: check it.")
    if kind == "parquet":
        _check_parquet(path)
    return kind


def _reader(path: Path) -> str | None:
    """The packaged reader for a file of this name; a `.gz` is read by that of its inner name."""
    return READERS.get(Path(path.name.lower().removesuffix(".gz")).suffix)


def _check_parquet(path: Path) -> None:
    """Raise for a file of columns without rows, of which `datasets` says something else.

    Raises:
        ValueError: If there are none.
    """
    try:
        rows = parquet.read_metadata(path).num_rows
    except (pa.ArrowInvalid, OSError):  # no parquet: the reader says what is wrong
        return
    if not rows:
        raise ValueError(f"{path.name!r} must hold at least one row, got 0: check the file.")


def _saved(path: Path, split: str, prefix: str) -> Dataset:
    """One split of a `save_to_disk` folder; its siblings are not opened.

    Raises:
        ValueError: If it is no such folder, is damaged, holds no row, or has no such split.
    """
    folder, label = path, repr(path.name)
    if (listing := path / "dataset_dict.json").is_file():
        names = json.loads(listing.read_text(encoding="utf-8")).get("splits", [])
        if split not in names:
            raise ValueError(f"`{prefix}split` must be one of {names}, got {split!r}.")
        folder, label = path / split, f"split {split!r} of {path.name!r}"
    state = folder / "state.json"
    if not state.is_file():
        raise ValueError(f"folder {path.name!r} was not written by `save_to_disk`: give a data file or such a folder.")
    try:
        entries = json.loads(state.read_text(encoding="utf-8"))["_data_files"]  # not those that `map` left beside them
        loaded = Dataset.load_from_disk(str(folder)) if entries else None  # `datasets` cannot open a table of none
    except Exception as error:  # a damaged folder has many kinds of errors
        raise ValueError(f"cannot read {label} as saved by `save_to_disk`: {_cause(error)}") from error
    if not loaded:
        raise ValueError(f"{label} must hold at least one row, got 0: check the folder.")
    paths = [folder / entry["filename"] for entry in entries]
    # The fingerprint saved with them says which functions made the rows, not what these read
    loaded._fingerprint = hash_json({"files": [hash_file(file) for file in paths], "features": repr(loaded.features)})
    return remember_files(loaded, paths, split=split)


def _cause(error: BaseException) -> str:
    """What a reader said before `datasets` wrapped it."""
    return first_line(error.__cause__ or error.__context__ or error)
