"""A dataset by name: a Hub id, a local data file, or a `save_to_disk` folder."""

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset
from datasets.exceptions import DatasetNotFoundError
from pyarrow import parquet

from hf_gip.dataset.source import remember_files

READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".txt": "text"}


def open_dataset(
    source: str,
    *,
    split: str = "train",
    config: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    option: str = "split",
) -> Dataset:
    """Load one split of a dataset as data: no code of the source is run.

    Args:
        source: A local `.parquet`, `.jsonl`, `.json`, `.csv`, `.tsv` or `.txt` file, a folder written by
            `save_to_disk`, or a Hub id such as `"tatsu-lab/alpaca"`.
        split: The split of a Hub dataset or of a saved `DatasetDict`; a file and a saved `Dataset` have none.
        config: The configuration of a Hub dataset.
        revision: The revision of a Hub dataset.
        token: The token for the Hub, instead of the stored one.
        option: What the caller's users know `split` by, for messages.

    Returns:
        The rows.

    Raises:
        FileNotFoundError: If nothing is there, on this disk or on the Hub.
        ValueError: If the file cannot be read, or a split or configuration does not exist.
    """
    path = Path(source).expanduser()
    if split != "train" and not has_splits(source):
        raise ValueError(f"`{option}` must be left out for {path.name!r}, which has no splits, got {split!r}.")
    if path.is_dir():
        return _saved(path, split, option)
    if path.suffix.lower() in READERS or path.is_file():
        return _file(path)
    if not _looks_like_hub_id(source):
        raise FileNotFoundError(f"no file or folder {source!r}: check the path, or give a Hub id such as 'user/name'.")
    try:
        return datasets.load_dataset(source, config, split=split, revision=revision, token=token)
    except DatasetNotFoundError as error:
        raise FileNotFoundError(
            f"no dataset {source!r} on the Hub, or it cannot be seen from here: check the name, or `hf auth login`."
        ) from error


def has_splits(source: str) -> bool:
    """Whether what `source` names has splits: the Hub's datasets and a saved `DatasetDict`."""
    path = Path(source).expanduser()
    return (path / "dataset_dict.json").is_file() if path.exists() else path.suffix.lower() not in READERS


def open_recorded(source: str, *, split: str | None, **options: Any) -> Dataset:
    """`open_dataset` at the split that a manifest records; a copy of that split in a file has none."""
    return open_dataset(source, split=(split if has_splits(source) else None) or "train", **options)


def _file(path: Path) -> Dataset:
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}: check the path.")
    kind = READERS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"cannot tell the format of {path.name!r}: use one of {', '.join(READERS)}.")
    if not path.stat().st_size:
        raise ValueError(f"{path.name!r} must hold at least one row, got an empty file: check it.")
    if kind == "parquet":
        _check_parquet(path)
    options: dict[str, Any] = {"delimiter": "\t"} if path.suffix.lower() == ".tsv" else {}
    try:
        loaded = datasets.load_dataset(kind, data_files=str(path), split="train", **options)
    except ValueError as error:
        if "corresponds to no data" in str(error):  # what `datasets` says of a file without rows
            raise ValueError(f"{path.name!r} must hold at least one row, got 0: check the file.") from None
        raise ValueError(f"cannot read {path.name!r} as {kind}: {_first_line(error)}") from error
    except Exception as error:  # each reader raises its own kinds; the cause goes along
        raise ValueError(f"cannot read {path.name!r} as {kind}: {_first_line(error)}") from error
    return remember_files(loaded, [path])


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


def _saved(path: Path, split: str, option: str) -> Dataset:
    try:
        loaded = datasets.load_from_disk(str(path))
    except FileNotFoundError:
        raise ValueError(
            f"folder {path.name!r} was not written by `save_to_disk`: give a data file or such a folder."
        ) from None
    if isinstance(loaded, Dataset):
        return remember_files(loaded, list(path.glob("*.arrow")))
    if split not in loaded:
        raise ValueError(f"`{option}` must be one of {list(loaded)}, got {split!r}.")
    return remember_files(loaded[split], list((path / split).glob("*.arrow")), split=split)


def _looks_like_hub_id(source: str) -> bool:
    return source.count("/") <= 1 and not source.startswith((".", "/", "~")) and "\\" not in source


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error.__context__ or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
