"""Which encoder is meant, and what it is by content."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import HashingVectorizer

from hf_gip.core.validation import brief, check_device
from hf_gip.features.proxy import check_after
from hf_gip.features.sentence_transformer import (
    LoadedModel,
    check_encoder_kwargs,
    fastest_dtype,
    find_model,
    model_state,
)
from hf_gip.hashing import hash_folder


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
        half: The same encoder in the half precision that this machine is fast in, for texts on which both agree; or
            None.
    """

    identity: dict[str, Any]
    load: Callable[[], Encoder]
    opaque: bool = False
    half: "EncoderRef | None" = None


def resolve_encoder(
    encoder: str | Encoder,
    *,
    device: str | list[str] | None = None,
    encoder_id: str | None = None,
    encoder_kwargs: Mapping[str, Any] | None = None,
) -> EncoderRef:
    """Identify `encoder` by content, without computing any of the rows.

    Args:
        encoder: `"lexical"`, a sentence-transformers Hub id or local folder, or any object with `encode`. An
            identifier may carry a revision after an `@`.
        device: Torch device for sentence-transformers models, or several.
        encoder_id: What to know an object by, *optional*, defaults to its weights or its answers.
        encoder_kwargs: Settings of a model that is opened by name, *optional*; see `hf_gip.embed`.

    Returns:
        The encoder with its identity: id and commit for a Hub model, a digest of the files for a local folder, a
        digest of weights, tokenizer and settings for a `SentenceTransformer`, `encoder_id` for an object that has
        one. Other objects are `opaque`.

    Raises:
        TypeError: If `encoder` is neither a name nor an object with `encode`, or `encoder_id` is no text.
        ValueError: If `encoder_id` is given beside a name.
    """
    check_encoder_id(encoder_id, encoder)
    encoder_kwargs = check_encoder_kwargs(encoder_kwargs, encoder)
    devices = check_device(device, several=True)
    if isinstance(encoder, str) and encoder == "lexical":
        return EncoderRef(LexicalEncoder().identity, LexicalEncoder)
    if isinstance(encoder, str) and encoder:
        return _named_model(encoder, devices, encoder_kwargs)
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
    if (state := model_state(encoder)) is not None:
        load = check_after(lambda: encoder, "encoder", lambda: model_state(encoder), state)
        return EncoderRef({"encoder": kind, "state": state}, load)
    return EncoderRef({"encoder": kind}, lambda: encoder, opaque=True)


def _named_model(name: str, devices: str | list[str], settings: dict[str, Any]) -> EncoderRef:
    model = find_model(name)
    identity = dict(model.identity)
    if other := {setting: value for setting, value in settings.items() if setting != "dtype"}:
        identity["encoder_kwargs"] = other

    def at(dtype: str, half: EncoderRef | None = None) -> EncoderRef:
        precision = {} if dtype == "auto" else {"dtype": dtype}
        load = lambda: LoadedModel(model, other | precision, devices)  # noqa: E731
        if model.revision is None:
            load = check_after(load, "encoder", lambda: hash_folder(Path(model.path)), model.identity["files"])
        return EncoderRef(identity | precision, load, half=half)

    if "dtype" in settings or "backend" in settings:
        return at(settings.get("dtype", "auto"))
    fastest = fastest_dtype(devices if isinstance(devices, str) else devices[0])
    return at("auto", half=None if fastest == "auto" else at(fastest))


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
