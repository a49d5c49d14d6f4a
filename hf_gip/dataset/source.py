"""Where a dataset came from: a Hub repository at a commit, local files by content, or rows of its own."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

COMMIT = re.compile(r"[0-9a-f]{40}")


def describe_source(dataset: Dataset, *, id_column: str | None = None) -> dict[str, Any]:
    """What is known of the rows' origin, as plain JSON; never a local path.

    `kind` is `hub` or `files` only while the dataset is as it was loaded: after a `map`, `filter` or `shuffle` the
    positions no longer count in those files, and only the `rows` themselves identify it.
    """
    described = {
        "kind": "rows",
        "num_rows": len(dataset),
        "columns": dataset.column_names,
        "fingerprint": dataset._fingerprint,
        "id_column": id_column,
        "split": str(dataset.split) if dataset.split is not None else None,
    }
    return described | (_hub(dataset) or _opened(dataset) or {})


def remember_files(dataset: Dataset, paths: Sequence[Path], *, split: str = "train") -> Dataset:
    """Note on a freshly opened dataset which local files it was read from: names, sizes and SHA-256, and the split."""
    files = []
    for path in sorted(paths):
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        files.append({"name": path.name, "size": path.stat().st_size, "sha256": sha256})
    noted = {"fingerprint": dataset._fingerprint, "files": files, "split": split}
    setattr(dataset, "opened_from", noted)  # noqa: B010 — an attribute of this instance
    return dataset


def _opened(dataset: Dataset) -> dict[str, Any] | None:
    noted = getattr(dataset, "opened_from", None)
    if noted is None or noted["fingerprint"] != dataset._fingerprint:
        return None
    return {"kind": "files", "files": noted["files"], "split": noted["split"]}


def _hub(dataset: Dataset) -> dict[str, Any] | None:
    """Repository and commit of a dataset loaded from the Hub and left as it was.

    `datasets` keeps neither, but its cache folder is `namespace___name/config/version/commit`, and the Hub cache,
    which holds the card, spells the repository's name in full.
    """
    if not dataset.cache_files:
        return None
    folder = Path(dataset.cache_files[0]["filename"]).parent
    config = dataset.info.config_name
    if not COMMIT.fullmatch(folder.name) or folder.parts[-3] != config or not _as_loaded(dataset, folder):
        return None
    repo_id = _repository(folder.parts[-4], folder.name)
    return None if repo_id is None else {"kind": "hub", "repo_id": repo_id, "revision": folder.name, "config": config}


def _as_loaded(dataset: Dataset, folder: Path) -> bool:
    """Whether the fingerprint is still the one a builder gives: a hash of its cache folder and the split."""
    from datasets.fingerprint import Hasher

    hasher = Hasher()
    hasher.update(Path(*folder.parts[-4:]).as_posix())
    hasher.update(str(dataset.split))
    return dataset._fingerprint == hasher.hexdigest()


def _repository(cached_as: str, commit: str) -> str | None:
    """The repository that the Hub cache holds at `commit` and that `datasets` caches under this name."""
    from datasets.naming import camelcase_to_snakecase
    from huggingface_hub import constants

    for snapshot in Path(constants.HF_HUB_CACHE).glob(f"datasets--*/snapshots/{commit}"):
        names = snapshot.parents[1].name.split("--")[1:]
        if "___".join([*names[:-1], camelcase_to_snakecase(names[-1])]) == cached_as:
            return "/".join(names)
    return None
