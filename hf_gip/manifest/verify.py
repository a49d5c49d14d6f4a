"""Check a saved subset without trusting whoever saved it."""

import os
from pathlib import Path

from datasets import Dataset
from datasets.exceptions import DatasetsError

from hf_gip.manifest.check_files import check_card, check_files, check_manifest, check_rows, check_selection
from hf_gip.manifest.check_source import check_source
from hf_gip.manifest.report import Check, Report
from hf_gip.manifest.run import RUN, verify_run
from hf_gip.manifest.schema import MANIFEST_PATH, read_manifest


def verify(folder: str | os.PathLike[str], *, source: "Dataset | str | os.PathLike[str] | None" = None) -> Report:
    """Check a saved subset: its files, its card, its selection, its rows, and the source they came from.

    Nothing is believed because the manifest says it: files are hashed, rows are hashed again, and with `source` the
    rows at the chosen positions are compared with the pool itself. What no hash can show, whether the method really
    chose these rows, is what `reproduce` is for.

    Args:
        folder: A folder written by `save_subset`, or the output folder of a run that re-selected.
        source: The pool: a dataset, or the file or folder it was read from.

    Returns:
        The report; true where nothing failed. `print` it for a table.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {str(folder)!r}: give one written by `hf_gip.save_subset`.")
    if (root / RUN).is_file() and not (root / MANIFEST_PATH).exists():  # beside a subset it would shield the subset
        return verify_run(root)
    if source is None or isinstance(source, Dataset):
        return verify_folder(root, source=source)
    try:
        opened = _open(root, os.fspath(source))
    except (OSError, ValueError, DatasetsError) as error:
        report = verify_folder(root)
        checks = (check for check in report.checks if not check.name.startswith("source"))
        return Report(report.subject, (*checks, Check("source", "failed", f"the source cannot be read: {error}")))
    return verify_folder(root, source=opened)


def _open(root: Path, source: str) -> Dataset:
    """The pool by name: the split and, from the Hub, the configuration and commit that the manifest names."""
    from hf_gip.dataset.open import open_dataset

    recorded = read_manifest(root).source
    return open_dataset(source, split=recorded.split or "train", config=recorded.config, revision=recorded.revision)


def verify_folder(folder: Path, *, source: Dataset | None = None) -> Report:
    """The checks of a local folder, against `source` where it is given."""
    try:
        manifest = read_manifest(folder)
    except (OSError, ValueError) as error:
        return Report(str(folder), (Check("manifest", "failed", str(error)),))
    selection, picks = check_selection(folder, manifest)
    return Report(
        str(folder),
        (
            check_manifest(folder, manifest),
            check_files(folder, manifest),
            check_card(folder, manifest),
            selection,
            check_rows(folder, manifest, picks),
            *check_source(manifest, picks, source),
        ),
    )
