"""Selected subsets to the Hub: rows, picks, manifest and card in one commit."""

import logging
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from hf_gip.hashing import git_blob_id, hash_file
from hf_gip.hub.load import list_repository
from hf_gip.hub.origins import Provenance, Token, ask_origins, check_revision
from hf_gip.hub.retry import retry
from hf_gip.manifest.dataset_card import PICTURE_PATH, CardDetails, merge_card, section_digest, split_card
from hf_gip.manifest.licenses import license_names, one_or_list, strictest
from hf_gip.manifest.locations import SubsetLocation, subset_roots
from hf_gip.manifest.schema import CARD_PATH, MANIFEST_PATH, MAX_BYTES, Manifest, parse_manifest
from hf_gip.manifest.verify import CARD_BYTES
from hf_gip.manifest.writer import SHARD_BYTES, check_names, check_subset, parse_shard_size, write_subset

logger = logging.getLogger(__name__)


@dataclass
class PublishedCommit(CommitInfo):
    """The commit that published a subset.

    Attributes:
        private: Whether the repository is private.
    """

    private: bool | None = None


def push_to_hub(
    subset: Dataset | DatasetDict,
    repo_id: str,
    *,
    include_rows: bool = True,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    config_name: str = "default",
    split: str | None = None,
    commit_message: str | None = None,
    max_shard_size: int | str = SHARD_BYTES,
    token: Token = None,
) -> PublishedCommit:
    """Publish a selected subset on the Hub, with proof of how it was chosen, in one commit.

    The repository then holds Parquet that `load_dataset` and the viewer read, `gip/selection.parquet` (position, gain
    and hash of each row), `gip/manifest.json` and a card. The text and foreign metadata of an existing card stay, as
    do other files and subsets; shards of an earlier push of the same configuration and split go in the same commit.
    What has not changed makes no commit. Rows are streamed through a temporary folder: memory does not grow with the
    subset.

    Args:
        subset: The result of `gip_select` and its siblings; of a `DatasetDict` every split must be one.
        repo_id: The dataset repository, such as `"me/alpaca-gip-1k"`; made where it does not exist.
        include_rows: False publishes positions and hashes only, for sources on the Hub that must not be passed on,
            *optional*, defaults to `True`; `load_subset` then takes the rows from the source.
        private: Of a new repository, *optional*, defaults to private unless every origin of the rows is known to be
            public, then as the account has it. An existing repository stays as it is; rows of a private or unknown
            origin go into a public one only with False.
        revision: The branch, *optional*; made where it does not exist.
        create_pr: Open a pull request instead of committing to the branch, *optional*, defaults to `False`.
        config_name: Configuration under which `load_dataset` finds the rows, *optional*, defaults to `"default"`.
        split: Split under which it finds them, *optional*, defaults to the subset's own.
        commit_message: The commit's message, *optional*.
        max_shard_size: Size of a Parquet file before compression, in bytes or such as `"500MB"`, *optional*, defaults
            to `500_000_000`.
        token: The token for the Hub, instead of the stored one, *optional*; it is never written anywhere.

    Returns:
        The commit, or the branch's head where nothing had changed, and whether the repository is `private`.

    Raises:
        TypeError: If `subset` is no dataset.
        ValueError: If `subset` carries no selection or was changed since, a name, size or token does not do, rows
            of a private or unknown origin would become public, or rows are left out that the Hub does not have.
        HfHubHTTPError: If the Hub refuses, in one sentence.
        ConnectionError: If the connection fails again and again.
    """
    subsets = _by_split(subset, split)
    layout = {
        "include_rows": include_rows,
        "shard_bytes": parse_shard_size(max_shard_size),
        "config_name": config_name,
    }
    for name, rows in subsets.items():
        check_subset(rows, include_rows=include_rows)
        check_names(config_name, name)
    check_repo_id("repo_id", repo_id)
    records = {name: _selection(rows).record for name, rows in subsets.items()}
    provenances = {
        name: ask_origins(records[name], token, repo_id=repo_id, loaded_from=getattr(rows, "loaded_from", None))
        for name, rows in subsets.items()
    }
    if not include_rows:
        for record in records.values():
            check_revision(record, token)
    api, task = HfApi(token=token), f"publish to {repo_id!r}"
    reason = next((each.private_reason for each in provenances.values() if each.private_reason), None)
    has_names = any(_names_values(record) for record in records.values())
    is_private = retry(lambda: _ensure_repository(api, repo_id, private, reason, include_rows, has_names), task)
    if revision not in (None, "main") and not revision.startswith("refs/") and not create_pr:
        retry(lambda: api.create_branch(repo_id, branch=revision, repo_type="dataset", exist_ok=True), task)
    message = commit_message or f"Publish {sum(map(len, subsets.values())):,} rows chosen by hf-gip"
    with tempfile.TemporaryDirectory(prefix="hf-gip-push-") as scratch:
        drafts = [
            _draft(rows, Path(scratch) / name, {**layout, "split": name}, provenances[name])
            for name, rows in subsets.items()
        ]
        commit = _publish(api, repo_id, drafts, message, revision=revision, create_pr=create_pr)
    parts = (commit.commit_url, commit.commit_message, commit.commit_description)
    return PublishedCommit(*parts, commit.oid, commit._endpoint, commit.pr_url, private=is_private)


def check_repo_id(name: str, repo_id: object) -> None:
    """Raise unless `repo_id` can name a repository.

    Raises:
        ValueError: If it is no `owner/name`.
    """
    if not isinstance(repo_id, str) or not re.fullmatch(r"[\w.\-]+/[\w.\-]+", repo_id):
        raise ValueError(f"`{name}` must be a dataset repository such as 'me/rows', got {repo_id!r}.")


def _by_split(subset: Any, split: str | None) -> dict[str, Dataset]:
    """The datasets to publish by split, `train` first: it becomes the repository's first subset.

    Raises:
        ValueError: If a mapping is to go under one split, is empty, or mixes rows of different columns.
    """
    if not isinstance(subset, DatasetDict):
        name = str(getattr(subset, "split", None) or "train")
        return {split or (name if name.replace(".", "_").isidentifier() else "train"): subset}
    if split is not None:
        raise ValueError(f"`split` must be left out for a DatasetDict with splits {list(subset)}, got {split!r}.")
    if bare := [name for name, rows in subset.items() if getattr(rows, "selection", None) is None]:
        raise ValueError(
            f"`subset` must carry a `.selection` in every split, got none in {bare[0]!r}: publish the selected splits "
            "only, as a DatasetDict of them."
        )
    if len({str(rows.features) for rows in subset.values()}) != 1:
        columns = "; ".join(f"{name}: {rows.column_names}" for name, rows in subset.items())
        raise ValueError(f"`subset` must have the same columns in every split, got {columns}: publish one by one.")
    return {str(name): subset[name] for name in sorted(subset, key=lambda name: name != "train")}


def _names_values(record: Mapping[str, Any]) -> bool:
    """Whether the picks and the manifest hold values of columns, even without the rows: ids or groups."""
    limits = record.get("limits") or {}
    return record["source"].get("id_column") is not None or limits.get("group_column") is not None


def _ensure_repository(
    api: HfApi, repo_id: str, private: bool | None, private_reason: str | None, include_rows: bool, has_names: bool
) -> bool:
    """Make the repository where there is none, and say whether it is private.

    Args:
        api: Whose account.
        repo_id: The repository.
        private: What the user says of it.
        private_reason: Why rows may not become public by default, or None.
        include_rows: Whether rows go there.
        has_names: Whether ids or groups of theirs go there in any case.

    Returns:
        Whether it is private.

    Raises:
        ValueError: If it is there and public, and the user or the rows' origin wants it private.
    """
    try:
        info = api.dataset_info(repo_id)
    except RepositoryNotFoundError:
        private_by_default = private is None and private_reason is not None
        # 409, somebody else made it: `retry` calls this again
        api.create_repo(repo_id, repo_type="dataset", private=True if private_by_default else private)
        if private_by_default:
            logger.warning(
                "%r is made private, as %s: pass `private=False` (`--public`) to publish it openly.",
                repo_id,
                private_reason,
            )
        return bool(api.dataset_info(repo_id).private)
    if not info.private and private:
        raise ValueError(
            f"`private` must be left out or False for {repo_id!r}, which is there and public, got True: make it "
            "private on its page first, or name a new repository."
        )
    if private_reason is not None and (include_rows or has_names) and not info.private and private is None:
        named = private_reason.startswith("the")
        limit = " for a selection without `id_column` and `group_column`," if has_names else ""
        pointer = f"`include_rows=False`{limit} to publish positions and hashes only, or " if named else ""
        raise ValueError(
            f"{private_reason}, and {repo_id!r} is public: pass {pointer}`private=False` if rows may be passed on."
        )
    return bool(info.private)


# --- one subset as it will be published ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Draft:
    """A subset ready to be published.

    Attributes:
        folder: Its files on this disk.
        manifest: Its manifest.
        provenance: What the Hub says of where its rows came from.
        picture: Whether the gains are drawn.
        compare: Makes the table against random rows, where the features are at hand.
    """

    folder: Path
    manifest: Manifest
    provenance: Provenance
    picture: bool
    compare: Callable[[], str | None]


def _draft(rows: Dataset, folder: Path, layout: Mapping[str, Any], provenance: Provenance) -> Draft:
    manifest = write_subset(rows, folder, **layout, origins=provenance.origins)
    selection = _selection(rows)
    picture = _draw(selection, folder / PICTURE_PATH)
    return Draft(folder, manifest, provenance, picture, lambda: _compare_with_random(selection))


def _draw(selection: Any, path: Path) -> bool:
    """Draw the gains where matplotlib is there."""
    try:
        figure = selection.plot()
    except ImportError:
        return False
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return True


def _compare_with_random(selection: Any) -> str | None:
    compare = getattr(selection.context, "compare_with_random", None)
    return None if compare is None else compare(selection)


def _selection(rows: Dataset) -> Any:
    return getattr(rows, "selection")  # noqa: B009 — set by `gip_select`, unknown to type checkers


# --- the commit ------------------------------------------------------------------------------------------------------


def _publish(
    api: HfApi, repo_id: str, drafts: Sequence[Draft], message: str, *, revision: str | None, create_pr: bool
) -> CommitInfo:
    """Commit the drafts on top of the branch's head, again on its new head where another writer was faster.

    Returns:
        The commit, or the head where nothing had changed.
    """
    comparisons: dict[str, str | None] = {}  # measured once, however often the commit is tried
    warnings: list[str] = []

    def attempt() -> CommitInfo:
        warnings.clear()
        head, files = list_repository(api, repo_id, revision)
        locations = _committed_locations(api, repo_id, head, files)
        old_card = _read_committed(api, repo_id, head, files, CARD_PATH, CARD_BYTES)
        card = None if old_card is None else old_card.decode("utf-8", "replace")
        placed = _assign_roots(drafts, locations)
        new_card = _new_card(repo_id, card, placed, locations, comparisons)
        warnings.extend(_license_notes(repo_id, card, new_card, drafts))
        operations = _operations(placed, card, files)
        if new_card.encode() != old_card:
            operations.append(CommitOperationAdd(CARD_PATH, new_card.encode()))
        if not operations:
            url = f"{api.endpoint}/datasets/{repo_id}/commit/{head}"
            return CommitInfo(url, message, "", head, _endpoint=api.endpoint)
        return api.create_commit(
            repo_id,
            operations,
            commit_message=message,
            repo_type="dataset",
            revision=revision,
            create_pr=create_pr,
            parent_commit=head,
        )

    commit = retry(attempt, f"publish to {repo_id!r}", repeatable=not create_pr)
    for note in warnings:
        logger.warning(note)
    return commit


def _committed_locations(api: HfApi, repo_id: str, commit: str, files: Mapping[str, RepoFile]) -> list[SubsetLocation]:
    """The subsets that a commit holds; a manifest that is not valid counts as a foreign file."""
    locations = []
    for root in subset_roots(files):
        data = _read_committed(api, repo_id, commit, files, f"{root}{MANIFEST_PATH}", MAX_BYTES)
        try:
            locations.append(SubsetLocation(root, parse_manifest(data or b"")))
        except ValueError:
            continue
    return locations


def _read_committed(
    api: HfApi, repo_id: str, commit: str, files: Mapping[str, RepoFile], path: str, limit: int
) -> bytes | None:
    """A small file of a commit, or None where there is none.

    Raises:
        ValueError: If it is longer than `limit`.
    """
    if path not in files:
        return None
    if files[path].size > limit:
        raise ValueError(f"{path} of {repo_id!r} must be at most {limit} bytes, got {files[path].size}.")
    return Path(hf_hub_download(repo_id, path, repo_type="dataset", revision=commit, token=api.token)).read_bytes()


def _assign_roots(drafts: Sequence[Draft], locations: Sequence[SubsetLocation]) -> list[tuple[SubsetLocation, Draft]]:
    """Where each draft goes: where it was, at the top if that is free, else into `config/split/`."""
    roots = {location.name: location.root for location in locations}
    placed = []
    for draft in drafts:
        name = SubsetLocation("", draft.manifest).name
        root = roots.get(name, "" if "" not in roots.values() else f"{name}/")
        roots[name] = root
        placed.append((SubsetLocation(root, draft.manifest), draft))
    return placed


def _new_card(
    repo_id: str,
    card: str | None,
    placed: Sequence[tuple[SubsetLocation, Draft]],
    locations: Sequence[SubsetLocation],
    comparisons: dict[str, str | None],
) -> str:
    """The card with the drafts' sections; a comparison is measured only where its section is to be written."""
    published = []
    for location, draft in placed:
        if _is_new(card, location) and location.name not in comparisons:
            comparisons[location.name] = draft.compare()
        comparison = comparisons.get(location.name)
        published.append((location, CardDetails(repo_id, draft.provenance.license, comparison, draft.picture)))
    roots = {location.root for location, _ in placed}
    every = [*(each for each in locations if each.root not in roots), *(location for location, _ in placed)]
    metadata = {name: value for _, draft in reversed(placed) for name, value in draft.provenance.metadata.items()}
    if licenses := _licenses([draft for _, draft in placed]):
        metadata["license"] = one_or_list(strictest(licenses))
    return merge_card(card, sorted(every, key=lambda each: each.root), published, metadata)


def _license_notes(repo_id: str, card: str | None, new_card: str, drafts: Sequence[Draft]) -> list[str]:
    """A warning where the card's license becomes a stricter one."""
    before, after = (license_names(split_card(text)[0].get("license")) for text in (card or "", new_card))
    if not before or before == after:
        return []
    return [
        f"the card of {repo_id!r} said license {', '.join(before)}, its rows are under "
        f"{', '.join(_licenses(drafts))}: it now says {', '.join(after)}."
    ]


def _licenses(drafts: Sequence[Draft]) -> list[str]:
    return [name for draft in drafts for name in license_names(draft.provenance.metadata.get("license"))]


def _operations(
    placed: Sequence[tuple[SubsetLocation, Draft]], card: str | None, files: Mapping[str, RepoFile]
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """The changed files of the drafts, and the shards of earlier pushes that the card's pattern would still read."""
    operations: list[CommitOperationAdd | CommitOperationDelete] = []
    for location, draft in placed:
        picture = [PICTURE_PATH] if draft.picture and _is_new(card, location) else []  # with a section that shows it
        operations += [
            CommitOperationAdd(location.root + path, draft.folder / path)
            for path in [*sorted(draft.manifest.files), MANIFEST_PATH, *picture]
            if not _is_committed(files.get(location.root + path), draft.folder / path)
        ]
    for location, draft in placed:
        prefix, current = f"{location.root}data/{location.manifest.split}-", draft.manifest.files
        stale = [path for path in files if path.startswith(prefix) and path[len(location.root) :] not in current]
        operations += [CommitOperationDelete(path) for path in stale]
    return operations


def _is_new(card: str | None, location: SubsetLocation) -> bool:
    """Whether the card has no section for this very manifest."""
    return section_digest(card, location) != location.manifest.digest


def _is_committed(committed: RepoFile | None, path: Path) -> bool:
    """Whether the branch holds this very file, by the name git or LFS has for it."""
    if committed is None or committed.size != path.stat().st_size:
        return False
    if committed.lfs is not None:
        return committed.lfs.sha256 == hash_file(path)
    return committed.blob_id == git_blob_id(path.read_bytes())
