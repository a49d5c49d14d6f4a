"""Check saved subsets without trusting whoever saved them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from datasets import Dataset

from hf_gip.manifest.check_files import check_card, check_files, check_manifest, check_rows, check_selection
from hf_gip.manifest.check_source import check_source
from hf_gip.manifest.report import Check, Report
from hf_gip.manifest.schema import Manifest, read_manifest
from hf_gip.manifest.slots import Slot, files_in, slot_roots

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
