"""The pool of a published subset, from the Hub at the commit its manifest names."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from hf_gip.disk import check_path
from hf_gip.hub.fetch import Token
from hf_gip.hub.retry import persist
from hf_gip.manifest.licenses import license_names, one_or_list, strictest
from hf_gip.manifest.schema import Manifest, Origin

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
    from hf_gip.dataset.open import open_recorded

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
