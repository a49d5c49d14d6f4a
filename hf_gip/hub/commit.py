"""One commit with everything in it, made from what the branch holds at that moment."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import RepoFile

from hf_gip.hashing import hash_file
from hf_gip.hub.fetch import old_file, old_manifests, snapshot
from hf_gip.hub.retry import persist
from hf_gip.hub.source import Provenance
from hf_gip.manifest.card import PICTURE_PATH, Extras
from hf_gip.manifest.check_files import CARD_BYTES
from hf_gip.manifest.licenses import license_names, one_or_list, strictest
from hf_gip.manifest.merge_card import merge_card, section_digest, split_card
from hf_gip.manifest.schema import CARD_PATH, MANIFEST_PATH, Manifest
from hf_gip.manifest.slots import Slot

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
