"""Where subsets lie in a folder or repository."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_gip.manifest.schema import MANIFEST_PATH, PLAIN_NAME, Manifest, read_manifest

NESTED = re.compile(rf"({PLAIN_NAME}/{PLAIN_NAME}/)?{re.escape(MANIFEST_PATH)}")
MAX_SUBSETS = 100
TOOL_FOLDERS = (".cache", ".git")  # which download tools leave


@dataclass(frozen=True, slots=True)
class SubsetLocation:
    """One subset and where it is.

    Attributes:
        root: The folder that holds it, `""` or such as `"default/test/"`.
        manifest: Its manifest.
    """

    root: str
    manifest: Manifest

    @property
    def name(self) -> str:
        """Configuration and split, under which `load_dataset` finds the rows."""
        return f"{self.manifest.config_name}/{self.manifest.split}"


def list_files(folder: Path) -> dict[str, int]:
    """Every file of a local folder with its size; what download tools leave is not counted."""
    paths = {path.relative_to(folder): path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}
    return {
        name.as_posix(): path.stat().st_size if path.is_file() else -1
        for name, path in paths.items()
        if name.parts[0] not in TOOL_FOLDERS
    }


def subset_roots(paths: Iterable[str]) -> list[str]:
    """The folders among `paths` that hold a manifest, the top one first.

    Raises:
        ValueError: If there are too many.
    """
    roots = sorted(path.removesuffix(MANIFEST_PATH) for path in paths if NESTED.fullmatch(path))
    if len(roots) > MAX_SUBSETS:
        raise ValueError(f"at most {MAX_SUBSETS} subsets are read from one place, got {len(roots)}.")
    return roots


def read_locations(folder: Path, paths: Iterable[str]) -> list[SubsetLocation]:
    """The subsets of a folder whose manifests are valid; the others are for `verify` to name."""
    locations = []
    for root in subset_roots(paths):
        try:
            locations.append(SubsetLocation(root, read_manifest(folder / root)))
        except (OSError, ValueError):
            continue
    return locations


def filter_locations(
    locations: Sequence[SubsetLocation], config_name: str | None, split: str | None, *, single: bool = False
) -> list[SubsetLocation]:
    """The subsets that a configuration and a split name; None stands for any.

    Raises:
        ValueError: If there is none, or several where a `single` one is meant.
    """
    matching = [
        location
        for location in locations
        if config_name in (None, location.manifest.config_name) and split in (None, location.manifest.split)
    ]
    if not matching or (single and len(matching) > 1):
        names = [location.name for location in locations]
        raise ValueError(
            f"`config_name` and `split` must name one of the subsets {names}, got {config_name!r} and {split!r}."
        )
    return matching
