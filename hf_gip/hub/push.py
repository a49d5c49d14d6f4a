"""Subsets to the Hub, in one commit."""

import hashlib
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from hf_gip.hashing import hash_file
from hf_gip.hub.load import Provenance, Token, ask_origins, check_revision, old_file, old_manifests, snapshot
from hf_gip.hub.retry import persist
from hf_gip.manifest.dataset_card import PICTURE_PATH, Extras, merge_card, section_digest, split_card
from hf_gip.manifest.licenses import license_names, one_or_list, strictest
from hf_gip.manifest.locations import Slot
from hf_gip.manifest.schema import CARD_PATH, MANIFEST_PATH, Manifest
from hf_gip.manifest.verify import CARD_BYTES
from hf_gip.manifest.writer import (
    SHARD_BYTES,
    check_names,
    check_rebuildable,
    check_shard_size,
    check_subset,
    check_unchanged,
    write_layout,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Draft:
    """A subset ready to be published.

    Attributes:
        folder: Its layout on this disk.
        manifest: Its manifest.
        known: What the Hub says of where its rows came from.
        picture: Whether the gains are drawn.
        evidence: Makes the table against random rows, where the features are at hand.
    """

    folder: Path
    manifest: Manifest
    known: Provenance
    picture: bool
    evidence: Callable[[], str | None]


def publish(
    api: HfApi, repo_id: str, drafts: Sequence[Draft], message: str, *, revision: str | None, create_pr: bool
) -> CommitInfo:
    """Commit the drafts on top of the branch's head, again on its new head where another writer was faster.

    Args:
        api: Who commits.
        repo_id: Where.
        drafts: What.
        message: The commit's message.
        revision: The branch.
        create_pr: Open a pull request instead.

    Returns:
        The commit, or the head where nothing had changed.
    """
    tables: dict[str, str | None] = {}
    notes: set[str] = set()

    def attempt() -> CommitInfo:
        notes.clear()
        return _commit(api, repo_id, drafts, message, revision, create_pr, tables, notes)

    done = persist(attempt, f"publish to {repo_id!r}", repeatable=not create_pr)
    for note in notes:
        logger.warning(note)
    return done


def _commit(
    api: HfApi,
    repo_id: str,
    drafts: Sequence[Draft],
    message: str,
    revision: str | None,
    create_pr: bool,
    tables: dict[str, str | None],
    notes: set[str],
) -> CommitInfo:
    head, files = snapshot(api, repo_id, revision)
    before = old_manifests(repo_id, head, files, api.token)
    old_card = old_file(repo_id, head, files, CARD_PATH, CARD_BYTES, api.token)
    old_text = None if old_card is None else old_card.decode("utf-8", "replace")
    placed = _placed(drafts, before)
    new = [(slot, _extras(slot, draft, repo_id, old_text, tables)) for slot, draft in placed]
    taken = {slot.root for slot, _ in new}
    slots = sorted([*(s for s in before if s.root not in taken), *(s for s, _ in new)], key=lambda slot: slot.root)
    origin = {name: value for draft in reversed(drafts) for name, value in draft.known.metadata.items()}
    licenses = [name for draft in drafts for name in license_names(draft.known.metadata.get("license"))]
    if licenses:
        origin["license"] = one_or_list(strictest(licenses))
    card = merge_card(old_text, slots, new, origin).encode()
    said, after = (license_names(split_card(text)[0].get("license")) for text in (old_text or "", card.decode()))
    if said and said != after:
        notes.add(
            f"the card of {repo_id!r} said license {', '.join(said)}, its rows are under {', '.join(licenses)}: "
            f"it now says {', '.join(after)}."
        )
    additions: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(slot.root + path, draft.folder / path)
        for slot, draft in placed
        for path in _files(draft, slot, old_text)
        if not _same(files.get(slot.root + path), draft.folder / path)
    ]
    if card != old_card:
        additions.append(CommitOperationAdd(CARD_PATH, card))
    gone = [CommitOperationDelete(path) for slot, draft in placed for path in _stale(slot, draft, files)]
    if not additions and not gone:
        url = f"{api.endpoint}/datasets/{repo_id}/commit/{head}"
        return CommitInfo(url, message, "", head, _endpoint=api.endpoint)
    return api.create_commit(
        repo_id,
        [*additions, *gone],
        commit_message=message,
        repo_type="dataset",
        revision=revision,
        create_pr=create_pr,
        parent_commit=head,
    )


def _placed(drafts: Sequence[Draft], before: Sequence[Slot]) -> list[tuple[Slot, Draft]]:
    """Where each draft goes: where it was, at the top if that is free, else into `config/split/`."""
    where = {slot.name: slot.root for slot in before}
    placed = []
    for draft in drafts:
        name = Slot("", draft.manifest).name
        root = where.get(name, "" if "" not in where.values() else f"{name}/")
        where[name] = root
        placed.append((Slot(root, draft.manifest), draft))
    return placed


def _extras(slot: Slot, draft: Draft, repo_id: str, card: str | None, tables: dict[str, str | None]) -> Extras:
    """What the card says besides the manifest; measured once, and only where the section is to be written."""
    if section_digest(card, slot) != slot.manifest.digest and slot.name not in tables:
        tables[slot.name] = draft.evidence()
    return Extras(repo_id, draft.known.license, tables.get(slot.name), draft.picture)


def _files(draft: Draft, slot: Slot, card: str | None) -> list[str]:
    """The layout's files; the picture only with a section that shows it."""
    new_section = section_digest(card, slot) != slot.manifest.digest
    picture = [PICTURE_PATH] if draft.picture and new_section else []
    return [*sorted(draft.manifest.files), MANIFEST_PATH, *picture]


def _stale(slot: Slot, draft: Draft, files: Mapping[str, RepoFile]) -> list[str]:
    """What the card's pattern for these rows would read besides them."""
    prefix = f"{slot.root}data/{slot.manifest.split}-"
    return [path for path in files if path.startswith(prefix) and path[len(slot.root) :] not in draft.manifest.files]


def _same(there: RepoFile | None, here: Path) -> bool:
    """Whether the branch holds this very file, by the name git or LFS has for it."""
    if there is None or there.size != here.stat().st_size:
        return False
    if there.lfs is not None:
        return there.lfs.sha256 == hash_file(here)
    data = here.read_bytes()
    return there.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


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
    and hash of each row), `gip/manifest.json` and a card. The words and foreign metadata of a card that is there stay,
    as do other files and subsets; shards of an earlier push of the same configuration and split go in the same commit.
    What has not changed makes no commit. Rows are streamed through a temporary folder: memory does not grow with the
    subset.

    Args:
        subset: The result of `gip_select` and its siblings; of a `DatasetDict` every split must be one.
        repo_id: The dataset repository, such as `"me/alpaca-gip-1k"`; made where it does not exist.
        include_rows: False publishes positions and hashes only, for sources on the Hub that must not be passed on;
            `load_subset` then takes the rows from the source.
        private: Of a new repository. By default private unless every origin of the rows is known to be public, then
            as the account has it. An existing repository stays as it is; rows of a private or unknown origin go into
            a public one only with False.
        revision: The branch; made where it does not exist.
        create_pr: Open a pull request instead of committing to the branch.
        config_name: Configuration under which `load_dataset` finds the rows.
        split: Split under which it finds them; the subset's own unless told.
        commit_message: The commit's message.
        max_shard_size: Size of a Parquet file before compression, in bytes or such as `"500MB"`.
        token: The token for the Hub, instead of the stored one; it is never written anywhere.

    Returns:
        The commit, or the branch's head where nothing had changed, and whether the repository is `private`.

    Raises:
        TypeError: If `subset` is no dataset.
        ValueError: If `subset` carries no selection or was changed since, a name, size or token does not do, rows
            of a private or unknown origin would become public, or rows are left out that the Hub does not have.
        HfHubHTTPError: If the Hub refuses, in one sentence.
        ConnectionError: If the connection fails again and again.
    """
    named = _named(subset, split)
    check_shard_size(max_shard_size)
    for name, rows in named.items():
        check_subset(rows)
        check_unchanged(rows)
        if not include_rows:
            check_rebuildable(_selection(rows).record["source"])
        check_names(config_name, name)
    if not isinstance(repo_id, str) or repo_id.count("/") != 1:
        raise ValueError(f"`repo_id` must be a dataset repository such as 'me/rows', got {repo_id!r}.")
    api = HfApi(token=token)
    known = {
        name: ask_origins(_selection(rows).record, token, getattr(rows, "loaded_from", None))
        for name, rows in named.items()
    }
    if not include_rows:
        for rows in named.values():
            check_revision(_selection(rows).record, token)
    closed = next((origins.closed for origins in known.values() if origins.closed), None)
    what = f"publish to {repo_id!r}"
    hidden = persist(lambda: _ensure(api, repo_id, private, closed, include_rows), what)
    if revision is not None and not create_pr:
        persist(lambda: _ensure_branch(api, repo_id, revision), what)
    message = commit_message or f"Publish {sum(map(len, named.values())):,} rows chosen by hf-gip"
    with tempfile.TemporaryDirectory(prefix="hf-gip-push-") as scratch:
        options: dict[str, Any] = {"include_rows": include_rows, "max_shard_size": max_shard_size}
        drafts = [
            _draft(rows, Path(scratch) / name, {**options, "config_name": config_name, "split": name}, known[name])
            for name, rows in named.items()
        ]
        done = publish(api, repo_id, drafts, message, revision=revision, create_pr=create_pr)
    parts = (done.commit_url, done.commit_message, done.commit_description, done.oid, done._endpoint, done.pr_url)
    return PublishedCommit(*parts, private=hidden)


def _named(subset: Any, split: str | None) -> dict[str, Dataset]:
    """The datasets to publish by split, `train` first: it becomes the repository's first subset.

    Raises:
        ValueError: If a mapping is to go under one split, is empty, or mixes rows of different columns.
    """
    if not isinstance(subset, DatasetDict):
        own = str(getattr(subset, "split", None) or "train")
        return {split or (own if own.replace(".", "_").isidentifier() else "train"): subset}
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


def _ensure(api: HfApi, repo_id: str, private: bool | None, closed: str | None, include_rows: bool) -> bool:
    """Make the repository where there is none, and say whether it is private.

    Args:
        api: Who asks.
        repo_id: Which.
        private: What the user says of it.
        closed: Why rows may not become public unasked, or None.
        include_rows: Whether rows go there.

    Returns:
        Whether it is private.

    Raises:
        ValueError: If it is there and public, and the user or the rows' origin wants it private.
    """
    try:
        info = api.dataset_info(repo_id)
    except RepositoryNotFoundError:
        visible = True if private is None and closed else private
        api.create_repo(repo_id, repo_type="dataset", private=visible)  # 409, somebody else did: looked at again
        if private is None and closed:
            logger.warning(
                "%r is made private, as %s: pass `private=False` (`--public`) to publish it openly.", repo_id, closed
            )
        return bool(api.dataset_info(repo_id).private)
    if not info.private and private:
        raise ValueError(
            f"`private` must be left out or False for {repo_id!r}, which is there and public, got True: make it "
            "private on its page first, or name a new repository."
        )
    if closed is not None and include_rows and not info.private and private is None:
        pointer = "`include_rows=False` to publish positions and hashes only, or " if closed.startswith("the") else ""
        raise ValueError(
            f"{closed}, and {repo_id!r} is public: pass {pointer}`private=False` if rows may be passed on."
        )
    return bool(info.private)


def _ensure_branch(api: HfApi, repo_id: str, revision: str) -> None:
    if revision != "main" and not revision.startswith("refs/"):
        api.create_branch(repo_id, branch=revision, repo_type="dataset", exist_ok=True)


def _draft(rows: Dataset, folder: Path, options: Mapping[str, Any], known: Provenance) -> Draft:
    """One subset as it will be published, in a folder."""
    manifest = write_layout(rows, folder, **options, origins=known.origins)
    selection = _selection(rows)
    return Draft(folder, manifest, known, _draw(selection, folder / PICTURE_PATH), lambda: _beside_random(selection))


def _draw(selection: Any, path: Path) -> bool:
    """Draw the gains where matplotlib is there."""
    try:
        figure = selection.plot()
    except ImportError:
        return False
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return True


def _beside_random(selection: Any) -> str | None:
    compare = getattr(selection.context, "compare_with_random", None)
    return None if compare is None else compare(selection)


def _selection(rows: Dataset) -> Any:
    return getattr(rows, "selection")  # noqa: B009 — set by `gip_select`, unknown to type checkers
