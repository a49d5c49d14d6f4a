"""Published subsets, on the Hub or in a folder: loaded, verified, reproduced."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from hf_gip.hub.origins import Token
from hf_gip.hub.retry import retry
from hf_gip.io import check_path
from hf_gip.manifest.locations import (
    SubsetLocation,
    filter_locations,
    list_files,
    read_locations,
    subset_roots,
)
from hf_gip.manifest.reader import load_folder, read_selection_table, restore_selection
from hf_gip.manifest.reproduce import Inputs, Reproduction, reproduce_from
from hf_gip.manifest.schema import (
    CARD_PATH,
    MANIFEST_PATH,
    MAX_BYTES,
    SELECTION_PATH,
    Manifest,
    parse_manifest,
)
from hf_gip.manifest.training_run import RUN, refuse_run_folder, verify_run
from hf_gip.manifest.verify import CARD_BYTES, VerificationReport, chosen_row_problems, verify_folder

MAX_FILES = 200_000
Source = Dataset | str | os.PathLike[str]


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
        revision: Branch, tag or commit of the repository, *optional*.
        verify: Check files, card, selection and rows first, *optional*, defaults to `True`.
        token: The token for the Hub, instead of the stored one, *optional*.
        source: The pool of a subset without rows, where it did not come from the Hub, *optional*.
        config_name: Which subset, where there are several, *optional*.
        split: Which split of it, *optional*.

    Returns:
        The rows in pick order; a `DatasetDict` where one configuration has several splits and none was named.

    Raises:
        FileNotFoundError: If there is no such folder or repository, or nothing was published there.
        ValueError: If something is not what its manifest says, or several subsets fit.
    """
    published = resolve(repo_or_folder, revision=revision, token=token)
    locations = published.locations()
    if verify and not (report := _verify(published)):
        raise ValueError(f"{published.name!r} is not what its manifest says: {report.failed[0].sentence}")
    named = [location for location in locations if config_name in (None, location.manifest.config_name)]
    several = len(named) > 1 and len({location.manifest.config_name for location in named}) == 1
    if split is not None or not several:
        named = filter_locations(locations, config_name, split, single=True)
    subsets: dict[Any, Dataset] = {
        each.manifest.split: _load(published, each, source, token, verify) for each in named
    }
    return DatasetDict(subsets) if len(subsets) > 1 else next(iter(subsets.values()))


def _load(
    published: "PublishedSubsets", location: SubsetLocation, source: Source | None, token: Token, verify: bool
) -> Dataset:
    folder, manifest = published.folder / location.root, location.manifest
    if manifest.include_rows:
        rows = load_folder(folder)
    else:
        picks, pool = read_selection_table(folder / SELECTION_PATH), open_source(manifest, source, token)
        if verify and (problems := chosen_row_problems(manifest, picks, pool)):
            raise ValueError(f"the source of {published.name!r} is not what its manifest says: {problems[0]}.")
        rows = restore_selection(
            pool.select(picks["index"].to_numpy()).select_columns(manifest.columns), manifest, folder
        )
    if published.remote:  # another origin: rows of a private subset are not published by default
        setattr(rows, "loaded_from", published.name.rpartition("@")[0])  # noqa: B010 — an attribute of this instance
    return rows


def verify(
    repo_or_folder: str | os.PathLike[str],
    *,
    source: Source | None = None,
    revision: str | None = None,
    token: Token = None,
) -> VerificationReport:
    """Check what was published: its files, its card, its selection, its rows, and the source they came from.

    Nothing is believed because the manifest says it: files are hashed, rows are hashed again, and the rows at the
    chosen positions are compared with the pool itself. What no hash can show, whether the method really chose these
    rows, is what `reproduce` is for.

    Args:
        repo_or_folder: A Hub repository, a folder written by `save_subset`, or the output folder of a run that
            re-selected.
        source: The pool, *optional*: a dataset, or the file, folder or Hub id it was read from. Of a repository whose
            source is on the Hub it is read from there, at the recorded commit; a folder is checked without the
            network.
        revision: Branch, tag or commit of the repository, *optional*.
        token: The token for the Hub, instead of the stored one, *optional*.

    Returns:
        The report; true where nothing failed. `print` it for a table.

    Raises:
        FileNotFoundError: If there is no such folder or repository.
    """
    published = resolve(repo_or_folder, revision=revision, token=token)
    # Beside a subset a run's list would shield the subset.
    if not published.remote and (published.folder / RUN).is_file() and not (published.folder / MANIFEST_PATH).exists():
        return verify_run(published.folder)
    return _verify(published, source, token, with_source=source is not None or published.remote)


def _verify(
    published: "PublishedSubsets", source: Source | None = None, token: Token = None, *, with_source: bool = False
) -> VerificationReport:
    def open_pool(manifest: Manifest) -> Dataset | None:
        if source is None and manifest.source.kind != "hub":
            return None
        return open_source(manifest, source, token)

    return verify_folder(
        published.folder,
        open_pool=open_pool if with_source else None,
        repository_files=published.files if published.remote else None,
        subject=published.name,
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

    Cached selections are not used; embeddings in the cache are. Pass again what a manifest cannot hold: a target or
    exclusion that was a dataset or a matrix, features that were a matrix, an encoder that was an object or a local
    folder.

    Args:
        repo_or_folder: A Hub repository, or a folder written by `save_subset`.
        source: The pool, *optional*: a dataset, or the file, folder or Hub id it was read from; None for the recorded
            repository at its commit.
        target: The target, where the manifest only names its kind, *optional*.
        features: The vectors, where the manifest only names their kind, *optional*.
        encoder: The encoder, where it was no Hub id and not `"lexical"`, *optional*.
        exclude: What to stay away from, where the manifest only names its kind, *optional*.
        model: The proxy whose gradients chose the rows, where it was no Hub id, *optional*.
        tokenizer: The proxy's tokenizer, where one was passed, *optional*.
        checkpoints: A Trainer's checkpoint folders, where GTP chose along its run, *optional*.
        device: Torch device, *optional*, defaults to a GPU if there is one.
        revision: Branch, tag or commit of the repository, *optional*.
        token: The token for the Hub, instead of the stored one, *optional*.
        config_name: Which subset, where there are several, *optional*.
        split: Which split of it, *optional*.

    Returns:
        What was the same and what was not, with figures; true where the objective was reached again.

    Raises:
        FileNotFoundError: If nothing was published there, or the source is not there.
        ValueError: If the source is not the recorded one, or an input must be passed again.
    """
    published = resolve(repo_or_folder, revision=revision, token=token)
    [location] = filter_locations(published.locations(), config_name, split, single=True)
    picks = read_selection_table(published.folder / location.root / SELECTION_PATH)
    inputs = Inputs(target, features, encoder, exclude, model, tokenizer, checkpoints)
    pool = open_source(location.manifest, source, token)
    return reproduce_from(location.manifest, picks, pool, inputs, device=device)


def open_source(manifest: Manifest, source: Source | None, token: Token) -> Dataset:
    """The pool: a dataset, by its name, or from the Hub at the recorded commit.

    Args:
        manifest: Names the pool's split, configuration and commit.
        source: A dataset, a file or folder, a Hub id, or None for the recorded repository.
        token: The token for the Hub, instead of the stored one.

    Returns:
        Its rows.

    Raises:
        TypeError: If `source` is no name.
        ValueError: If `source` is None and the manifest names no repository.
    """
    from hf_gip.dataset.loading import open_recorded

    if isinstance(source, Dataset):
        return source
    recorded = manifest.source
    if source is None:
        repo_id, commit = recorded.repo_id, recorded.revision
        if recorded.kind != "hub" or repo_id is None or commit is None:
            kind = "local files" if recorded.kind == "files" else "a dataset made in memory"
            raise ValueError(f"`source` must be given: the rows came from {kind}, not from the Hub.")
        if Path(repo_id).exists():  # a name out of a manifest never becomes a path here
            raise ValueError(f"the source {repo_id!r} must come from the Hub, but a local path has that name.")
        retry(lambda: HfApi(token=token).dataset_info(repo_id, revision=commit), f"read {repo_id!r}")
        source = repo_id
    check_path("source", source, "a Dataset, a file, a folder, or a Hub id")
    options = {"split": recorded.split, "config": recorded.config, "revision": recorded.revision}
    return open_recorded(os.fspath(source), **options, token=token)


# --- folders and repositories ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PublishedSubsets:
    """A folder, or the files of a repository at one commit, on this disk.

    Attributes:
        folder: Where the files are.
        name: What people call it: the path, or `repository@commit`.
        files: Every file with its size; of a repository also those that were not fetched.
        remote: Whether it came from the Hub.
    """

    folder: Path
    name: str
    files: Mapping[str, int]
    remote: bool

    def locations(self) -> list[SubsetLocation]:
        """Its valid subsets.

        Raises:
            FileNotFoundError: If there is no manifest.
            ValueError: If none is valid.
        """
        roots = subset_roots(self.files)
        if not roots:
            refuse_run_folder(self.folder)
            raise FileNotFoundError(f"{self.name!r} holds no {MANIFEST_PATH}: it was not published by hf-gip.")
        locations = read_locations(self.folder, self.files)
        if not locations:
            parse_manifest((self.folder / roots[0] / MANIFEST_PATH).read_bytes()[: MAX_BYTES + 1])  # says why
        return locations


def resolve(name: str | os.PathLike[str], *, revision: str | None, token: Token) -> PublishedSubsets:
    """A local folder, or a repository fetched at its commit.

    Args:
        name: A folder, or a repository such as `"me/rows"`; a folder of that name wins.
        revision: Branch, tag or commit of a repository.
        token: The token for the Hub, instead of the stored one.

    Returns:
        Its files.

    Raises:
        FileNotFoundError: If there is no such folder and the name is no repository's, or a path's as well.
        RepositoryNotFoundError: If the Hub shows no such repository.
        TypeError: If `name` is no name.
        ValueError: If a revision of a folder is named.
    """
    check_path("repo_or_folder", name, "a folder, or a repository such as 'me/rows'")
    folder, text = Path(name), os.fspath(name)
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"`revision` must be left out for the folder {text!r}, got {revision!r}.")
        return PublishedSubsets(folder, text, list_files(folder), remote=False)
    if folder.is_absolute() or text.count("/") != 1 or text.startswith((".", "~")) or "\\" in text:
        raise FileNotFoundError(
            f"no folder {text!r}: give one written by `hf_gip.save_subset`, or a repository such as 'me/rows'."
        )
    try:
        return _fetch(text, revision=revision, token=token)
    except RepositoryNotFoundError as error:
        if not folder.parent.is_dir():
            raise
        raise FileNotFoundError(
            f"{text!r} is no folder here, and no repository of that name can be seen on the Hub: check the path, or "
            "the repository's name and `hf auth login`."
        ) from error


def _fetch(repo_id: str, *, revision: str | None, token: Token) -> PublishedSubsets:
    """The files that the manifests of a repository list, at one commit, in the Hub cache.

    Nothing is read before its size is known: a manifest or card that is too long, or a file of another size than its
    manifest says, is not fetched.
    """
    commit, entries = list_repository(HfApi(token=token), repo_id, revision)
    sizes = {path: entry.size for path, entry in entries.items()}
    folder = Path(constants.HF_HUB_CACHE) / f"datasets--{repo_id.replace('/', '--')}" / "snapshots" / commit

    def download(path: str) -> Path:
        options = {"repo_type": "dataset", "revision": commit, "token": token}
        file = Path(retry(lambda: hf_hub_download(repo_id, path, **options), f"read {repo_id!r}"))
        return file.parents[path.count("/")]  # the snapshot's folder

    limits = {CARD_PATH: CARD_BYTES} | {f"{root}{MANIFEST_PATH}": MAX_BYTES for root in subset_roots(sizes)}
    for path, limit in limits.items():
        if path in sizes and sizes[path] <= limit:
            folder = download(path)
    for location in read_locations(folder, sizes):
        for path, entry in location.manifest.files.items():
            if sizes.get(location.root + path) == entry.size:
                download(location.root + path)
    return PublishedSubsets(folder, f"{repo_id}@{commit}", sizes, remote=True)


def list_repository(api: HfApi, repo_id: str, revision: str | None) -> tuple[str, dict[str, RepoFile]]:
    """The commit of a revision and its files.

    Raises:
        ValueError: If there are too many files.
    """

    def ask() -> tuple[str, dict[str, RepoFile]]:
        commit = api.dataset_info(repo_id, revision=revision).sha
        assert commit is not None  # the Hub names the commit of every revision
        try:
            tree = api.list_repo_tree(repo_id, repo_type="dataset", revision=commit, recursive=True)
            files = [entry for entry in islice(tree, MAX_FILES + 1) if isinstance(entry, RepoFile)]
        except EntryNotFoundError:  # a repository without any file
            files = []
        return commit, {entry.path: entry for entry in files}

    commit, files = retry(ask, f"read {repo_id!r}" if revision is None else f"read {repo_id!r} at {revision!r}")
    if len(files) > MAX_FILES:
        raise ValueError(f"{repo_id!r} must have at most {MAX_FILES:,} files, got more: it is no place of subsets.")
    return commit, files
