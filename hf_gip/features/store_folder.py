"""The folder of a gradient store: whose it is, and where its shards are."""

import json
import os
from pathlib import Path
from typing import Any

from hf_gip.disk import written
from hf_gip.hashing import hash_json


def claim(folder: Path, identity: dict[str, Any]) -> None:
    """Mark the folder as this run's, or check that it already is.

    Raises:
        ValueError: If it is another's.
    """
    marker = folder / "gradients.json"
    with written(folder, "free space there or choose another folder (HF_DATASETS_CACHE moves the cache)"):
        folder.mkdir(parents=True, exist_ok=True)
        if not marker.exists() or not _is_json(marker):  # damaged on disk: every shard names its store as well
            aside = folder / f".gradients.{os.getpid()}.part"
            aside.write_text(json.dumps(identity, indent=2, sort_keys=True))
            os.replace(aside, marker)
    found = json.loads(marker.read_text())
    differing = [name for name in identity if found.get(name) != identity[name]]
    if differing:
        raise ValueError(
            f"`folder` must be empty or hold the same store, got {hash_json(found)} where this run is "
            f"{hash_json(identity)} (they differ in {', '.join(differing)}): choose another folder."
        )


def _is_json(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except (ValueError, RecursionError):
        return False


def read_identity(path: Path) -> dict[str, Any]:
    """What a store says it was made of.

    Raises:
        ValueError: If it is not readable or names no number of rows.
    """
    try:
        identity = json.loads(path.read_text())
        rows = identity["rows"]
    except (ValueError, KeyError, TypeError, RecursionError):
        identity, rows = {}, None
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
        raise ValueError(f"`folder` must hold a gradient store, got an unreadable {path.name}: make it anew.")
    return identity


def check_same(path: Path, found: str, wanted: str) -> None:
    """Raise unless a shard belongs to its store.

    Raises:
        ValueError: With both ids.
    """
    if found != wanted:
        raise ValueError(
            f"`folder` must hold shards of one store, got {path.name} of {found} in the store {wanted}: "
            "delete the shard."
        )


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard is."""
    return folder / f"gradients-{number:05d}.safetensors"
