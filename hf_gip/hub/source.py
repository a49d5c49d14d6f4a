"""The pool of a published subset, from the Hub at the commit its manifest names."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from hf_gip.disk import check_path
from hf_gip.hub.fetch import Token
from hf_gip.hub.retry import persist
from hf_gip.manifest.schema import Manifest

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
class Origin:
    """What the Hub says of the repository that rows came from.

    Attributes:
        closed: Name of the source where it is private or gated, or cannot be seen.
        metadata: Licence, language and tasks of its card.
    """

    closed: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def licence(self) -> str | None:
        """The licence, as one line."""
        found = self.metadata.get("license")
        return ", ".join(found) if isinstance(found, list) else found


def origin_of(record: Mapping[str, Any], token: Token) -> Origin:
    """Ask the Hub about a selection's source; one that it does not show counts as closed.

    Raises:
        HfHubHTTPError: If the Hub does not answer.
    """
    source = record["source"]
    if source["kind"] != "hub":
        return Origin()
    repo_id, what = source["repo_id"], f"ask for the source {source['repo_id']!r}"
    try:
        info = persist(lambda: HfApi(token=token).dataset_info(repo_id), what)
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403, 404):
            return Origin(closed=repo_id)
        raise
    card = info.card_data.to_dict() if info.card_data is not None else {}
    metadata = {name: card[name] for name in ("license", "language", "task_categories") if card.get(name)}
    return Origin(repo_id if info.private or info.gated else None, metadata)
