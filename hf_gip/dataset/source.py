"""Where a dataset came from: a Hub repository at a commit, local files by content, or rows of its own."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

HUB_FILE = re.compile(r"hf://datasets/(?P<repo>[^@]+)@(?P<commit>[0-9a-f]{40})/(?P<path>.+)")


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
    """Repository, commit and files of a dataset loaded from the Hub and left as it was."""
    found = {HUB_FILE.fullmatch(url): entry for url, entry in (dataset.info.download_checksums or {}).items()}
    if not found or None in found or not _as_loaded(dataset):
        return None
    matches = [match for match in found if match is not None]
    origins = {(match["repo"], match["commit"]) for match in matches}
    if len(origins) > 1:
        return None
    [(repo, commit)] = origins
    files = [
        {"name": match["path"], "size": entry["num_bytes"], "sha256": entry.get("checksum")}
        for match, entry in found.items()
        if match is not None
    ]
    return {
        "kind": "hub",
        "repo_id": repo,
        "revision": commit,
        "config": dataset.info.config_name,
        "files": sorted(files, key=lambda file: file["name"]),
    }


def _as_loaded(dataset: Dataset) -> bool:
    """Whether the fingerprint is still the one a builder gives: a hash of its cache folder and the split."""
    from datasets.fingerprint import Hasher

    if not dataset.cache_files:
        return False
    parts = Path(dataset.cache_files[0]["filename"]).parent.parts
    fingerprints = set()
    for depth in (4, 5):  # name/config/version/hash, and one more folder under some builders
        hasher = Hasher()
        hasher.update(Path(*parts[-depth:]).as_posix())
        hasher.update(str(dataset.split))
        fingerprints.add(hasher.hexdigest())
    return dataset._fingerprint in fingerprints
