"""Where subsets lie in a folder or repository."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hf_gip.manifest.schema import MANIFEST_PATH, PLAIN_NAME, Manifest, read_manifest

NESTED = re.compile(rf"({PLAIN_NAME}/{PLAIN_NAME}/)?{re.escape(MANIFEST_PATH)}")
MAX_SLOTS = 100
TOOLS = (".cache", ".git")  # folders that download tools leave


@dataclass(frozen=True, slots=True)
class Slot:
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


def slot_roots(paths: Iterable[str]) -> list[str]:
    """The folders among `paths` that hold a manifest, the top one first.

    Raises:
        ValueError: If there are too many.
    """
    found = sorted(path.removesuffix(MANIFEST_PATH) for path in paths if NESTED.fullmatch(path))
    if len(found) > MAX_SLOTS:
        raise ValueError(f"at most {MAX_SLOTS} subsets are read from one place, got {len(found)}.")
    return found


def files_in(folder: Path) -> dict[str, int]:
    """Every file of a local folder with its size; what download tools leave is not counted."""
    found = {p.relative_to(folder): p for p in folder.rglob("*") if not p.is_dir() or p.is_symlink()}
    return {
        name.as_posix(): path.stat().st_size if path.is_file() else -1
        for name, path in found.items()
        if name.parts[0] not in TOOLS
    }


def read_slots(folder: Path, paths: Iterable[str]) -> list[Slot]:
    """The valid manifests of a folder; the others are for `verify` to name."""
    slots = []
    for root in slot_roots(paths):
        try:
            slots.append(Slot(root, read_manifest(folder / root)))
        except (OSError, ValueError):
            continue
    return slots


def fitting_slots(slots: list[Slot], config_name: str | None, split: str | None) -> list[Slot]:
    """The subsets that a configuration and a split name; None stands for any.

    Raises:
        ValueError: If there is none.
    """
    fitting = [
        slot
        for slot in slots
        if config_name in (None, slot.manifest.config_name) and split in (None, slot.manifest.split)
    ]
    if not fitting:
        raise ValueError(_which(slots, config_name, split))
    return fitting


def choose_slot(slots: list[Slot], config_name: str | None, split: str | None) -> Slot:
    """The one subset that is meant.

    Raises:
        ValueError: If none or several are.
    """
    fitting = fitting_slots(slots, config_name, split)
    if len(fitting) > 1:
        raise ValueError(_which(slots, config_name, split))
    return fitting[0]


def _which(slots: list[Slot], config_name: str | None, split: str | None) -> str:
    names = [slot.name for slot in slots]
    return f"`config_name` and `split` must name one of the subsets {names}, got {config_name!r} and {split!r}."
