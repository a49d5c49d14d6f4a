"""Subsets from the Hub."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from hf_gip.hashing import row_hashes
from hf_gip.hub.retry import persist
from hf_gip.io import check_path
from hf_gip.manifest.licenses import license_names, one_or_list, strictest
from hf_gip.manifest.locations import Slot, choose_slot, files_in, read_slots, slot_roots
from hf_gip.manifest.reader import load_folder, read_selection, restore_selection
from hf_gip.manifest.reproduce import Reproduction, reproduce_from
from hf_gip.manifest.schema import (
    CARD_PATH,
    MANIFEST_PATH,
    MAX_BYTES,
    SELECTION_PATH,
    Manifest,
    Origin,
    parse_manifest,
)
from hf_gip.manifest.training_run import RUN, no_subset, verify_run
from hf_gip.manifest.verify import CARD_BYTES, Report, differing, verify_folder

MAX_FILES = 200_000
Token = str | bool | None


@dataclass(frozen=True, slots=True)
class Place:
    """Published subsets on this disk.

    Attributes:
        folder: Where their files are.
        subject: What people call it: the path, or `repository@commit`.
        present: Every file with its size; of a repository also those that were not fetched.
        remote: Whether it came from the Hub.
    """

    folder: Path
    subject: str
    present: Mapping[str, int]
    remote: bool

    def slots(self) -> list[Slot]:
        """Its valid subsets.

        Raises:
            FileNotFoundError: If there is no manifest.
            ValueError: If none is valid.
        """
        roots = slot_roots(self.present)
        if not roots:
            if (told := no_subset(self.folder)) is not None:
                raise FileNotFoundError(told)
            raise FileNotFoundError(f"{self.subject!r} holds no {MANIFEST_PATH}: it was not published by hf-gip.")
        found = read_slots(self.folder, self.present)
        if not found:
            parse_manifest((self.folder / roots[0] / MANIFEST_PATH).read_bytes()[: MAX_BYTES + 1])  # says why
        return found


def locate(name: str | os.PathLike[str], *, revision: str | None, token: Token) -> Place:
    """A local folder, or a repository fetched at its commit.

    Args:
        name: A folder, or a repository such as `"me/rows"`; a folder of that name wins.
        revision: Branch, tag or commit of a repository.
        token: The token for the Hub, instead of the stored one.

    Returns:
        The place.

    Raises:
        FileNotFoundError: If there is no such folder and the name is no repository's, or a path's as well.
        RepositoryNotFoundError: If the Hub shows no such repository.
        TypeError: If `name` is no name.
        ValueError: If a revision is asked of a folder.
    """
    check_path("repo_or_folder", name, "a folder, or a repository such as 'me/rows'")
    folder, text = Path(name), os.fspath(name)
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"`revision` must be left out for the folder {text!r}, got {revision!r}.")
        return Place(folder, text, files_in(folder), remote=False)
    if folder.is_absolute() or text.count("/") != 1 or text.startswith((".", "~")) or "\\" in text:
        raise FileNotFoundError(
            f"no folder {text!r}: give one written by `hf_gip.save_subset`, or a repository such as 'me/rows'."
        )
    try:
        return fetch(text, revision=revision, token=token)
    except RepositoryNotFoundError as error:
        if not folder.parent.is_dir():
            raise
        raise FileNotFoundError(
            f"{text!r} is no folder here, and no repository of that name can be seen on the Hub: check the path, or "
            "the repository's name and `hf auth login`."
        ) from error


def fetch(repo_id: str, *, revision: str | None, token: Token) -> Place:
    """The files that the manifests of a repository list, at one commit, in the Hub cache.

    Nothing is read before its size is known: a manifest or card that is too long, or a file of another size than its
    manifest says, is not fetched.
    """
    commit, files = snapshot(HfApi(token=token), repo_id, revision)
    what = f"read {repo_id!r}"

    def get(path: str) -> Path:
        return Path(
            persist(lambda: hf_hub_download(repo_id, path, repo_type="dataset", revision=commit, token=token), what)
        )

    sizes = {path: file.size for path, file in files.items()}
    folder = _folder_of(repo_id, commit)
    for path in (CARD_PATH, *(f"{root}{MANIFEST_PATH}" for root in slot_roots(sizes))):
        if sizes.get(path, MAX_BYTES) <= (CARD_BYTES if path == CARD_PATH else MAX_BYTES) and path in sizes:
            folder = _parent(get(path), path)
    for slot in read_slots(folder, sizes):
        for path, entry in slot.manifest.files.items():
            if sizes.get(slot.root + path) == entry.size:
                get(slot.root + path)
    return Place(folder, f"{repo_id}@{commit}", sizes, remote=True)


def snapshot(api: HfApi, repo_id: str, revision: str | None) -> tuple[str, dict[str, RepoFile]]:
    """The commit of a revision and its files.

    Raises:
        ValueError: If there are too many files.
    """
    what = f"read {repo_id!r}" if revision is None else f"read {repo_id!r} at {revision!r}"

    def listed() -> tuple[str, dict[str, RepoFile]]:
        commit = api.dataset_info(repo_id, revision=revision).sha
        assert commit is not None  # the Hub names the commit of every revision
        try:
            tree = api.list_repo_tree(repo_id, repo_type="dataset", revision=commit, recursive=True)
            found = [entry for entry in islice(tree, MAX_FILES + 1) if isinstance(entry, RepoFile)]
        except EntryNotFoundError:  # a repository without any file
            found = []
        return commit, {entry.path: entry for entry in found}

    commit, files = persist(listed, what)
    if len(files) > MAX_FILES:
        raise ValueError(f"{repo_id!r} must have at most {MAX_FILES:,} files, got more: it is no place of subsets.")
    return commit, files


def old_manifests(repo_id: str, commit: str, files: Mapping[str, RepoFile], token: Token) -> list[Slot]:
    """The subsets that a commit holds; a manifest that is not valid counts as a foreign file."""
    slots = []
    for root in slot_roots(files):
        data = old_file(repo_id, commit, files, f"{root}{MANIFEST_PATH}", MAX_BYTES, token)
        try:
            manifest: Manifest = parse_manifest(data or b"")
        except ValueError:
            continue
        slots.append(Slot(root, manifest))
    return slots


def old_file(
    repo_id: str, commit: str, files: Mapping[str, RepoFile], path: str, limit: int, token: Token
) -> bytes | None:
    """A small file of a commit, or None where there is none.

    Raises:
        ValueError: If it is longer than `limit`.
    """
    if path not in files:
        return None
    if files[path].size > limit:
        raise ValueError(f"{path} of {repo_id!r} must be at most {limit} bytes, got {files[path].size}.")
    return Path(hf_hub_download(repo_id, path, repo_type="dataset", revision=commit, token=token)).read_bytes()


def _folder_of(repo_id: str, commit: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"datasets--{repo_id.replace('/', '--')}" / "snapshots" / commit


def _parent(file: Path, path: str) -> Path:
    """The snapshot's folder, from a file in it."""
    return file.parents[path.count("/")]


Source = Dataset | str | os.PathLike[str]


def open_source(manifest: Manifest, source: Source | None, token: Token) -> Dataset:
    """The pool: as given, by the name given, or from the Hub at the recorded commit.

    Args:
        manifest: Names the pool's split, configuration and commit.
        source: A dataset, a file or folder, a Hub id, or None for the recorded repository.
        token: The token for the Hub, instead of the stored one.

    Returns:
        Its rows.

    Raises:
        TypeError: If `source` is no name.
        ValueError: If the manifest names no repository and nothing was given.
    """
    from hf_gip.dataset.loading import open_recorded

    if isinstance(source, Dataset):
        return source
    kept = manifest.source
    if source is None:
        if kept.kind != "hub" or kept.repo_id is None or kept.revision is None:
            what = "local files" if kept.kind == "files" else "a dataset made in memory"
            raise ValueError(f"`source` must be given: the rows came from {what}, not from the Hub.")
        if Path(kept.repo_id).exists():  # a name out of a manifest never becomes a path here
            raise ValueError(f"the source {kept.repo_id!r} must come from the Hub, but a local path has that name.")
        commit = kept.revision
        persist(lambda: HfApi(token=token).dataset_info(kept.repo_id or "", revision=commit), f"read {kept.repo_id!r}")
    name: Any = kept.repo_id if source is None else source
    check_path("source", name, "a Dataset, a file, a folder, or a Hub id")
    name = os.fspath(name)
    return open_recorded(name, split=kept.split, config=kept.config, revision=kept.revision, token=token)


@dataclass(frozen=True, slots=True)
class Provenance:
    """What the Hub says of the repositories that rows came from.

    Attributes:
        origins: Each with its privacy and licences; one that the Hub does not show counts as private.
        metadata: Language and tasks of their cards, and the strictest licence.
        hidden: The private or gated repository that the subset itself was loaded from.
    """

    origins: tuple[Origin, ...]
    metadata: Mapping[str, Any]
    hidden: str | None = None

    @property
    def closed(self) -> str | None:
        """Why the rows may not become public unasked; None where every origin is known to be public."""
        private = next((origin.repo_id for origin in self.origins if origin.private), self.hidden)
        if private is not None:
            return f"the source {private!r} is private, gated or not to be seen"
        if not self.origins or any(origin.repo_id is None for origin in self.origins):
            return "not every row's origin is known (local files, or rows made or kept in memory)"
        return None

    @property
    def license(self) -> str | None:
        """The strictest licence, as one line."""
        return ", ".join(license_names(self.metadata.get("license"))) or None


def ask_origins(record: Mapping[str, Any], token: Token, loaded_from: str | None = None) -> Provenance:
    """Ask the Hub about the origins in a selection's record.

    Args:
        record: Of a selection.
        token: The token for the Hub, instead of the stored one.
        loaded_from: The repository that the subset itself was loaded from.

    Returns:
        The answers.

    Raises:
        HfHubHTTPError: If the Hub does not answer.
    """
    source = record["source"]
    recorded = [Origin.model_validate(origin) for origin in source.get("origins") or [{}]]
    origins, metadata, licenses = [], {}, []
    for origin in recorded:
        private, card = (None, {}) if origin.repo_id is None else _ask(origin.repo_id, token)
        names = license_names(card.get("license"))
        origins.append(origin.model_copy(update={"private": private, "license": names}))
        licenses += names
        metadata = {name: card[name] for name in ("language", "task_categories") if card.get(name)} | metadata
    names = strictest(licenses)
    metadata = ({"license": one_or_list(names)} if names else {}) | metadata
    hidden = loaded_from if loaded_from is not None and _ask(loaded_from, token)[0] else None
    return Provenance(tuple(origins), metadata, hidden)


def check_revision(record: Mapping[str, Any], token: Token) -> None:
    """Raise unless the Hub still has the commit that rows without a copy are to be taken from."""
    repo_id, revision = record["source"]["repo_id"], record["source"]["revision"]
    persist(lambda: HfApi(token=token).dataset_info(repo_id, revision=revision), f"ask for the source {repo_id!r}")


def _ask(repo_id: str, token: Token) -> tuple[bool, dict[str, Any]]:
    """Whether a repository is private, gated or not to be seen, and the metadata of its card.

    Raises:
        HfHubHTTPError: If the Hub does not answer.
    """
    try:
        info = persist(lambda: HfApi(token=token).dataset_info(repo_id), f"ask for the source {repo_id!r}")
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403, 404):
            return True, {}
        raise
    return bool(info.private or info.gated), {} if info.card_data is None else info.card_data.to_dict()


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
