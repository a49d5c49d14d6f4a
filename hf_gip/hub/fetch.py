"""A published place on this disk: a local folder as it is, or what the manifests of a repository list, fetched."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from hf_gip.disk import check_path
from hf_gip.hub.retry import persist
from hf_gip.manifest.check_files import CARD_BYTES
from hf_gip.manifest.run import no_subset
from hf_gip.manifest.schema import CARD_PATH, MANIFEST_PATH, MAX_BYTES, Manifest, parse_manifest
from hf_gip.manifest.slots import Slot, files_in, read_slots, slot_roots

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
