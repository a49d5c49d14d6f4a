"""What the Hub says of the repositories that rows came from: whether they are private, and under which license."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from hf_gip.hub.retry import retry
from hf_gip.manifest.licenses import license_names, one_or_list, strictest
from hf_gip.manifest.schema import Origin

Token = str | bool | None


@dataclass(frozen=True, slots=True)
class Provenance:
    """The Hub's answers.

    Attributes:
        origins: Each with its privacy and licenses; one that the Hub does not show counts as private.
        metadata: Language and tasks of their cards, and the strictest license.
        private_repository: The private or gated repository that the subset itself was loaded from.
    """

    origins: tuple[Origin, ...]
    metadata: Mapping[str, Any]
    private_repository: str | None = None

    @property
    def private_reason(self) -> str | None:
        """Why the rows may not become public by default; None where every origin is public."""
        private = next((origin.repo_id for origin in self.origins if origin.private), self.private_repository)
        if private is not None:
            return f"the source {private!r} is private, gated or not to be seen"
        if not self.origins or any(origin.repo_id is None for origin in self.origins):
            return "not every row's origin is known (local files, or rows made or kept in memory)"
        return None

    @property
    def license(self) -> str | None:
        """The strictest license, as one line."""
        return ", ".join(license_names(self.metadata.get("license"))) or None


def ask_origins(
    record: Mapping[str, Any], token: Token, *, repo_id: str, loaded_from: str | None = None
) -> Provenance:
    """Ask the Hub about the origins in a selection's record.

    Args:
        record: Of a selection.
        token: The token for the Hub, instead of the stored one.
        repo_id: Where the rows go: a repository is no origin of what was loaded from it and comes back.
        loaded_from: The repository that the subset itself was loaded from, *optional*.

    Returns:
        The answers.

    Raises:
        HfHubHTTPError: If the Hub does not answer.
    """
    origins, metadata, licenses = [], {}, []
    listed = [origin for origin in record["source"].get("origins") or [] if origin.get("repo_id") != repo_id]
    for origin in map(Origin.model_validate, listed or [{}]):
        private, card = (None, {}) if origin.repo_id is None else _ask(origin.repo_id, token)
        names = license_names(card.get("license"))
        origins.append(origin.model_copy(update={"private": private, "license": names}))
        licenses += names
        metadata = {name: card[name] for name in ("language", "task_categories") if card.get(name)} | metadata
    if names := strictest(licenses):
        metadata = {"license": one_or_list(names)} | metadata
    private_repository = loaded_from if loaded_from is not None and _ask(loaded_from, token)[0] else None
    return Provenance(tuple(origins), metadata, private_repository)


def check_revision(record: Mapping[str, Any], token: Token) -> None:
    """Raise unless the Hub still has the commit that rows without a copy are to be taken from."""
    repo_id, revision = record["source"]["repo_id"], record["source"]["revision"]
    retry(lambda: HfApi(token=token).dataset_info(repo_id, revision=revision), f"ask for the source {repo_id!r}")


def _ask(repo_id: str, token: Token) -> tuple[bool, dict[str, Any]]:
    """Whether a repository is private, gated or not to be seen, and the metadata of its card.

    Raises:
        HfHubHTTPError: If the Hub does not answer.
    """
    try:
        info = retry(lambda: HfApi(token=token).dataset_info(repo_id), f"ask for the source {repo_id!r}")
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403, 404):
            return True, {}
        raise
    return bool(info.private or info.gated), {} if info.card_data is None else info.card_data.to_dict()
