"""Load, verify and reproduce what was published, on the Hub or in a folder."""

import os
from collections.abc import Sequence
from typing import Any

from datasets import Dataset, DatasetDict

from hf_gip.hashing import row_hashes
from hf_gip.hub.fetch import Place, Token, locate
from hf_gip.hub.source import Source, open_source
from hf_gip.manifest.check_files import differing
from hf_gip.manifest.report import Report
from hf_gip.manifest.reproduce import Reproduction, reproduce_from
from hf_gip.manifest.run import RUN, verify_run
from hf_gip.manifest.save import load_folder, restore_selection
from hf_gip.manifest.schema import MANIFEST_PATH, SELECTION_PATH
from hf_gip.manifest.selection_file import read_selection
from hf_gip.manifest.slots import Slot, choose_slot
from hf_gip.manifest.verify import verify_folder


def load_subset(
    repo_or_folder: str | os.PathLike[str],
    *,
    revision: str | None = None,
    verify: bool = True,
    token: Token = None,
    source: Source | None = None,
    config_name: str | None = None,
    split: str | None = None,
) -> Dataset | DatasetDict:
    """Load a published subset with its `.selection`, checked on the way in.

    A subset published without its rows is taken from its source at the recorded commit, row by row compared with the
    published hashes.

    Args:
        repo_or_folder: A Hub repository, or a folder written by `save_subset`.
        revision: Branch, tag or commit of the repository.
        verify: Check files, card, selection and rows first.
        token: The token for the Hub, instead of the stored one.
        source: The pool of a subset without rows, where it did not come from the Hub.
        config_name: Which subset, where there are several.
        split: Which split of it.

    Returns:
        The rows in pick order; a `DatasetDict` where one configuration has several splits and none was named.

    Raises:
        FileNotFoundError: If there is no such place, or nothing was published there.
        ValueError: If something is not what its manifest says, or several subsets fit.
    """
    place = locate(repo_or_folder, revision=revision, token=token)
    slots = place.slots()
    if verify and not (report := _verify(place, None)):
        raise ValueError(f"{place.subject!r} is not what its manifest says: {report.failed[0].sentence}")
    wanted = [slot for slot in slots if config_name in (None, slot.manifest.config_name)]
    if split is None and len(wanted) > 1 and len({slot.manifest.config_name for slot in wanted}) == 1:
        return DatasetDict({slot.manifest.split: _rows(place, slot, source, token, verify) for slot in wanted})
    return _rows(place, choose_slot(slots, config_name, split), source, token, verify)


def _rows(place: Place, slot: Slot, source: Source | None, token: Token, verify: bool) -> Dataset:
    rows = _rows_of_slot(place, slot, source, token, verify)
    if place.remote:  # another origin: rows of a private subset are not published unasked
        setattr(rows, "loaded_from", place.subject.rpartition("@")[0])  # noqa: B010 — an attribute of this instance
    return rows


def _rows_of_slot(place: Place, slot: Slot, source: Source | None, token: Token, verify: bool) -> Dataset:
    folder, manifest = place.folder / slot.root, slot.manifest
    if manifest.include_rows:
        return load_folder(folder)
    picks = read_selection(folder / SELECTION_PATH)
    pool = open_source(manifest, source, token)
    indices = picks["index"].to_numpy()
    if len(outside := indices[(indices < 0) | (indices >= len(pool))]):
        raise ValueError(f"the source must have a row at position {outside[0]}, got {len(pool):,} rows.")
    rows = pool.select(indices).select_columns(manifest.columns)
    if verify and (problems := differing(picks, row_hashes(rows, manifest.columns))):
        raise ValueError(f"the source of {place.subject!r} is not what its manifest says: {problems[0]}.")
    return restore_selection(rows, manifest, folder)


def verify(
    repo_or_folder: str | os.PathLike[str],
    *,
    source: Source | None = None,
    revision: str | None = None,
    token: Token = None,
) -> Report:
    """Check what was published: its files, its card, its selection, its rows, and the source they came from.

    Nothing is believed because the manifest says it: files are hashed, rows are hashed again, and the rows at the
    chosen positions are compared with the pool itself. What no hash can show, whether the method really chose these
    rows, is what `reproduce` is for.

    Args:
        repo_or_folder: A Hub repository, a folder written by `save_subset`, or the output folder of a run that
            re-selected.
        source: The pool: a dataset, or the file, folder or Hub id it was read from. Of a repository whose source is
            on the Hub it is read from there, at the recorded commit; a folder is checked without the network.
        revision: Branch, tag or commit of the repository.
        token: The token for the Hub, instead of the stored one.

    Returns:
        The report; true where nothing failed. `print` it for a table.

    Raises:
        FileNotFoundError: If there is no such folder or repository.
    """
    place = locate(repo_or_folder, revision=revision, token=token)
    # Beside a subset a run's list would shield the subset.
    if not place.remote and (place.folder / RUN).is_file() and not (place.folder / MANIFEST_PATH).exists():
        return verify_run(place.folder)
    return _verify(place, source, token, with_source=source is not None or place.remote)


def _verify(place: Place, source: Source | None, token: Token = None, *, with_source: bool = False) -> Report:
    def open_pool(manifest: Any) -> Dataset | None:
        if source is None and manifest.source.kind != "hub":
            return None
        return open_source(manifest, source, token)

    return verify_folder(
        place.folder,
        source=open_pool if with_source else None,
        present=place.present if place.remote else None,
        subject=place.subject,
    )


def reproduce(
    repo_or_folder: str | os.PathLike[str],
    *,
    source: Source | None = None,
    target: Any = None,
    features: Any = None,
    encoder: Any = None,
    exclude: Any = None,
    model: Any = None,
    tokenizer: Any = None,
    checkpoints: Sequence[str | os.PathLike[str]] | None = None,
    device: str | None = None,
    revision: str | None = None,
    token: Token = None,
    config_name: str | None = None,
    split: str | None = None,
) -> Reproduction:
    """Select again from the source of a published subset, with its recorded parameters.

    Cached selections are not used; embeddings in the cache are. What the manifest cannot hold is given again: a target
    or exclusion that was a dataset or a matrix, features that were a matrix, an encoder that was an object or a
    local folder.

    Args:
        repo_or_folder: A Hub repository, or a folder written by `save_subset`.
        source: The pool: a dataset, or the file, folder or Hub id it was read from; None for the recorded repository
            at its commit.
        target: The target, where the manifest only names its kind.
        features: The vectors, where the manifest only names their kind.
        encoder: The encoder, where it was no Hub id and not `"lexical"`.
        exclude: What to stay away from, where the manifest only names its kind.
        model: The proxy whose gradients chose the rows, where it was no Hub id.
        tokenizer: The proxy's tokenizer, where one was given.
        checkpoints: A Trainer's checkpoint folders, where GTP chose along its run.
        device: Torch device; a GPU where there is one unless told.
        revision: Branch, tag or commit of the repository.
        token: The token for the Hub, instead of the stored one.
        config_name: Which subset, where there are several.
        split: Which split of it.

    Returns:
        What was the same and what was not, with figures; true where the objective was reached again.

    Raises:
        FileNotFoundError: If nothing was published there, or the source is not there.
        ValueError: If the source is not the recorded one, or something must be given again.
    """
    place = locate(repo_or_folder, revision=revision, token=token)
    slot = choose_slot(place.slots(), config_name, split)
    picks = read_selection(place.folder / slot.root / SELECTION_PATH)
    given = {"target": target, "features": features, "encoder": encoder, "exclude": exclude}
    given |= {"model": model, "tokenizer": tokenizer, "checkpoints": checkpoints}
    return reproduce_from(slot.manifest, picks, open_source(slot.manifest, source, token), given, device=device)
