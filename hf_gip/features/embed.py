"""Texts → one unit vector per row, each text encoded once and kept on disk by its content, resumable after a kill."""

import json
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from datasets import Dataset, config
from datasets.utils import tqdm
from filelock import FileLock
from jaxtyping import Float
from torch import Tensor

from hf_gip.features.embedding_cache import EmbeddingCache, check_room, empty_matrix, write_shard
from hf_gip.features.encoders import Encoder, EncoderRef, answer_to_array, resolve_encoder
from hf_gip.features.progress import ANNOUNCE_SECONDS, format_seconds
from hf_gip.features.text import TextRecipe, check_rows, iter_texts, text_recipe
from hf_gip.hashing import hash_json, hash_tensors, hash_texts
from hf_gip.io import friendly_disk_errors, write_text_atomically

VERSION = 2  # of the vectors' recipe: raise it when the same inputs would give other vectors
SHARD_ROWS = 2_048  # what a kill can cost at most
BATCH_ROWS = 512  # per call of `encode`, of like length
SAMPLE_ROWS = 32  # texts by whose vectors an encoder is known and the time is estimated
AGREE = 0.999  # least cosine to the stored precision at which a half one is used
SAME = 1e-5  # largest distance of two unit vectors that single precision explains
ALIKE = 0.05  # largest distance that half precision explains, where the encoder's own answers differ as much
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Features:
    """Vectors with the recipe that made them.

    Attributes:
        matrix: One row per example, (n, d); memory-mapped where it comes from the cache.
        recipe: Plain JSON: encoder identity, columns, normalization, width; enough to compute the vectors again.
    """

    matrix: Float[Tensor, "n d"]
    recipe: dict[str, Any]


def embed(
    dataset: Dataset,
    encoder: str | Encoder,
    *,
    columns: Sequence[str] | None = None,
    template: str | None = None,
    device: str | list[str] | None = None,
    encoder_id: str | None = None,
    encoder_kwargs: Mapping[str, Any] | None = None,
) -> Features:
    """Embed the rows' texts as unit vectors, (n, d) float32, through the datasets cache.

    A vector is kept by its text and by what the encoder is, so a text that any pool had before is not encoded again,
    and equal texts are encoded once. Texts are encoded in shards of 2,048: a killed run goes on at the last finished
    shard, and processes that embed the same pool wait for each other. An empty text becomes a zero vector. Memory does
    not grow with n beyond 256 MB of vectors; disk 4 d bytes a distinct text.

    An `encoder` that is neither a name nor a plain `SentenceTransformer` is asked for some 32 texts of the pool on
    every call, long, short, rare and spread over it. Where its answers are not the cached vectors, all its texts are
    encoded anew.

    Args:
        dataset: The rows; an indices mapping and any format are respected.
        encoder: `"lexical"`, a sentence-transformers id (`id@revision` pins it) or folder, or an object with `encode`.
        columns: Text columns, instead of the detected layout, *optional*.
        template: A format string naming columns in braces, instead of joining columns, *optional*.
        device: Torch device for sentence-transformers models, *optional*, defaults to a GPU if there is one. A list
            such as `["cuda:0", "cuda:1"]` embeds with one process each.
        encoder_id: What to know an encoder object by, instead of its answers. It is yours to change when the vectors
            change. *optional*.
        encoder_kwargs: Settings of a sentence-transformers model opened by name, *optional*: `backend` (`"torch"`,
            `"onnx"`, `"openvino"`) and `file_name` of its weights, such as an int8 export; `prompt` or `prompt_name`;
            `truncate_dim`; `max_seq_length`; `dtype` (`"auto"` as stored, `"float32"`, `"bfloat16"`, `"float16"`).
            By default the half precision that this machine has units for is used if its vectors of 32 texts of this
            pool have a cosine of at least 0.999 to those of the stored precision. All but the device is recorded.

    Returns:
        The vectors and their recipe.

    Raises:
        OSError: If the disk is full, or does not give back what was written.
        TypeError: If `dataset` or `encoder` is of another kind, or the encoder returns no matrix.
        ValueError: If the dataset or all texts are empty, or the encoder answers with wrong counts or NaN.
    """
    check_rows("dataset", dataset)
    texts = text_recipe(dataset, columns, template)
    ref = resolve_encoder(encoder, device=device, encoder_id=encoder_id, encoder_kwargs=encoder_kwargs)
    return embed_rows(dataset, texts, ref)


def embed_rows(dataset: Dataset, texts: TextRecipe, encoder: EncoderRef) -> Features:
    """`embed` of rows whose recipe and encoder are resolved already; the arguments are not checked again."""
    pool = _Pool(dataset, texts)
    matrix, identity = _through_cache(pool, encoder)
    recipe = {
        "kind": "text",
        "version": VERSION,
        **identity,
        "columns": list(texts.columns),
        "template": texts.template,
        "normalized": True,
        "dims": matrix.shape[1],
        "empty_rows": int((~pool.present).sum()),
    }
    return Features(torch.from_numpy(matrix), recipe)


def identify_encoder(dataset: Dataset, texts: TextRecipe, encoder: EncoderRef) -> dict[str, Any]:
    """What `embed_rows` would record of the encoder, without computing the rows: equal where the vectors are.

    An object without a state of its own is asked for some 32 texts of the dataset.
    """
    if not encoder.opaque and encoder.half is None:
        return encoder.identity
    pool = _Pool(dataset, texts)
    return _identify(pool, _choose_precision(pool, encoder)).identity


def embed_texts(texts: Sequence[str], encoder: EncoderRef) -> Float[Tensor, "m d"]:
    """Embed a few texts as unit vectors, without the cache.

    Raises:
        ValueError: If there is no text, or a text is empty.
    """
    if not texts:
        raise ValueError("`target` must hold at least one text, got none.")
    if blank := [i for i, text in enumerate(texts) if not text.strip()]:
        raise ValueError(f"`target` must hold no empty text, got {len(blank)}, first at position {blank[0]}: drop it.")
    pool = _Pool(Dataset.from_dict({"text": list(texts)}), TextRecipe(("text",)))
    return torch.from_numpy(_encode(list(texts), _choose_precision(pool, encoder).load()))


class _Pool:
    """What must be known of all texts: their keys, lengths and which are not empty, 21 bytes a row.

    Raises:
        ValueError: If all of them are empty.
    """

    def __init__(self, dataset: Dataset, recipe: TextRecipe) -> None:
        self.dataset, self.recipe = dataset, recipe
        keys, lengths, present = [], [], []
        for texts in _batches(iter_texts(dataset, recipe)):
            keys.append(hash_texts(texts))
            lengths += [len(text) for text in texts]
            present += [bool(text.strip()) for text in texts]
        self.keys, self.lengths, self.present = np.concatenate(keys), np.array(lengths), np.array(present)
        if not self.present.any():
            raise ValueError(
                f"`columns` must hold text, got {len(dataset)} empty texts from {list(recipe.columns)}: name other "
                "columns."
            )

    def digest(self) -> str:
        return hash_tensors({"keys": torch.from_numpy(self.keys.view(np.uint8))})

    def texts(self, rows: np.ndarray) -> list[str]:
        return list(iter_texts(self.dataset.select(rows), self.recipe))

    def find(self, cache: EmbeddingCache) -> np.ndarray:
        """The cache's position of each row's vector, −1 where it has none or needs none."""
        return np.where(self.present, cache.find(self.keys), -1)

    def missing(self, positions: np.ndarray) -> np.ndarray:
        """The first row of every distinct text without a vector, in order."""
        rows = np.flatnonzero(self.present & (positions < 0))
        return np.sort(rows[np.unique(self.keys[rows], return_index=True)[1]])

    def sample(self, rows: np.ndarray, count: int = SAMPLE_ROWS) -> np.ndarray:
        """`count` of `rows`: the longest, the shortest, some of rare words, and others spread over them."""
        by_length = rows[np.argsort(-self.lengths[rows], kind="stable")]
        spread = rows[np.linspace(0, len(rows) - 1, min(8 * count, len(rows))).astype(int)]
        words = [set(text.split()) for text in self.texts(spread)]
        counts = Counter(word for each in words for word in each)
        rarity = np.array([sum(1 / counts[word] for word in each) / max(1, len(each)) for each in words])
        rare = spread[np.argsort(-rarity, kind="stable")]
        quarter = count // 4
        evenly = spread[np.linspace(0, len(spread) - 1, quarter).astype(int)]
        first = np.concatenate([by_length[:quarter], by_length[-quarter:], rare[:quarter], evenly, spread])
        return first[np.sort(np.unique(first, return_index=True)[1])][:count]


@dataclass(frozen=True, slots=True)
class _Sample:
    """A few texts encoded first.

    Attributes:
        rows: Which.
        vectors: Theirs, (SAMPLE_ROWS, d).
        seconds: How long a character took.
    """

    rows: np.ndarray
    vectors: np.ndarray
    seconds: float


@dataclass(frozen=True, slots=True)
class _EncoderState:
    """What an encoder is, and where its vectors are.

    Attributes:
        identity: What the cache and the manifest call it.
        folders: Where its vectors are.
        target: The folder for further ones.
        sample: Texts that were encoded to tell what the encoder is, or None.
        replaced: Whether texts of the pool have cached vectors that are not the encoder's answers.
    """

    identity: dict[str, Any]
    folders: list[Path]
    target: Path
    sample: _Sample | None = None
    replaced: bool = False


def _through_cache(pool: _Pool, ref: EncoderRef) -> tuple[np.ndarray, dict[str, Any]]:
    """The vectors of the pool, and what the encoder is.

    Raises:
        OSError: If the disk is full, or does not give back what was written.
    """
    ref = _choose_precision(pool, ref)
    root = _root(ref)
    with friendly_disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    shards, state = set(root.rglob("*.safetensors")), _identify(pool, ref)
    cache = EmbeddingCache(state.folders)
    positions = pool.find(cache)
    if len(missing := pool.missing(positions)):
        lock = FileLock(root / f"lock-{pool.digest()[:2]}")  # this pool's, and one in 256 others'
        with friendly_disk_errors(root), lock:
            if set(root.rglob("*.safetensors")) != shards:  # another process has been at work
                state = _identify(pool, ref)
                missing = pool.missing(pool.find(cache := EmbeddingCache(state.folders)))
            if len(missing):
                _fill(pool, missing, state, cache.width, ref.load())
        cache = EmbeddingCache([*state.folders, state.target])
        positions = pool.find(cache)
    if cache.width is None or len(pool.missing(positions)):
        raise OSError(f"the features in {str(root)!r} cannot be read back: check the disk.")
    matrix = empty_matrix((len(positions), cache.width), root)
    cache.gather(positions, matrix)
    return matrix, state.identity


def choose_precision(dataset: Dataset, texts: TextRecipe, encoder: EncoderRef) -> EncoderRef:
    """The encoder in the precision that `embed_rows` would use for these rows."""
    return encoder if encoder.half is None else _choose_precision(_Pool(dataset, texts), encoder)


def _choose_precision(pool: _Pool, ref: EncoderRef) -> EncoderRef:
    """The encoder in half precision, where this machine is fast in one and texts of this pool come out alike.

    The outcome is kept for this pool, so that the same rows have the same vectors on every call.
    """
    if ref.half is None:
        return ref
    outcome = _root(ref) / "half_precision" / hash_json({"pool": pool.digest(), "half": ref.half.identity})
    with friendly_disk_errors(outcome):
        if not outcome.exists():
            encoder, texts = ref.load(), pool.texts(pool.sample(np.flatnonzero(pool.present)))
            cosine = None  # of an encoder that looks its vectors up: no multiplication to speed up
            if not getattr(encoder, "is_static", False):
                try:
                    cosine = float((_encode(texts, encoder) * _encode(texts, ref.half.load())).sum(1).min())
                except ValueError:  # beyond the numbers of the half precision
                    cosine = 0.0
                if cosine < AGREE:
                    warnings.warn(
                        f"`encoder` ({ref.identity['encoder']}) answers otherwise in {ref.half.identity['dtype']}: "
                        f"cosine {cosine:.3f} to its stored precision, which is used instead.",
                        stacklevel=5,
                    )
            outcome.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(outcome, json.dumps(cosine))
        cosine = json.loads(outcome.read_text())
    return ref if cosine is None or cosine < AGREE else ref.half


def _root(ref: EncoderRef) -> Path:
    name = hash_json({"version": VERSION, **ref.identity})
    return Path(config.HF_DATASETS_CACHE) / "hf_gip" / "embeddings" / name


def _identify(pool: _Pool, ref: EncoderRef) -> _EncoderState:
    return _compare_answers(pool, ref) if ref.opaque else _EncoderState(ref.identity, [_root(ref)], _root(ref))


def _compare_answers(pool: _Pool, ref: EncoderRef) -> _EncoderState:
    """Find the folders whose vectors of this pool's texts are the encoder's own answers.

    Each folder was filled by one encoder in one run, so each is compared by texts of its own.
    """
    encoder, root = ref.load(), _root(ref)
    cached: dict[Path, tuple[EmbeddingCache, np.ndarray, np.ndarray]] = {}  # positions in it, rows to compare by
    for folder in sorted(path for path in root.glob("*") if path.is_dir()):
        positions = pool.find(cache := EmbeddingCache([folder]))
        if len(rows := np.flatnonzero(positions >= 0)):
            share = len(rows) / int(pool.present.sum())
            sample_rows = pool.sample(rows, max(SAMPLE_ROWS // 4, round(share * SAMPLE_ROWS)))
            cached[folder] = (cache, positions, sample_rows)
    compared = np.unique(np.concatenate([np.empty(0, np.int64), *(rows for _, _, rows in cached.values())]))
    answers = _Answers(pool.texts(compared), encoder) if len(compared) else None
    matching, has_vector = [], np.zeros(len(pool.keys), bool)
    for folder, (cache, positions, rows) in cached.items():
        vectors = np.zeros((len(rows), cache.width or 0), np.float32)
        cache.gather(positions[rows], vectors)
        if answers is not None and answers.match(vectors, np.searchsorted(compared, rows)):
            matching.append(folder)
            has_vector |= positions >= 0
    missing = pool.missing(np.where(has_vector, 0, -1))
    foreign = [folder for folder in cached if folder not in matching]
    replaced = any((cached[folder][1][missing] >= 0).any() for folder in foreign)
    sample, target = None, matching[0] if matching else root
    if len(missing):
        sample = _encode_sample(pool, missing, encoder)
        first = {"keys": pool.keys[sample.rows].view(np.uint8), "answers": sample.vectors}
        digest = hash_tensors({name: torch.from_numpy(values) for name, values in first.items()})
        target = root / hash_json({"answers": digest, "unlike": [folder.name for folder in foreign]})
    longest = int(np.argmax(np.where(pool.present, pool.lengths, -1)))  # in the sample of who encodes it
    main = next((folder for folder in matching if cached[folder][1][longest] >= 0), target)
    return _EncoderState({**ref.identity, "answers": main.name}, matching, target, sample, replaced)


class _Answers:
    """An encoder's vectors of some texts, to be compared with cached ones."""

    def __init__(self, texts: list[str], encoder: Encoder) -> None:
        self._texts, self._encoder = texts, encoder
        self._vectors, self._noise = _encode(texts, encoder), -1.0

    def match(self, cached: np.ndarray, indices: np.ndarray) -> bool:
        """Whether `cached` are the answers to the texts at `indices`, but for the noise of batches."""
        answers = self._vectors[indices]
        if cached.shape != answers.shape:
            return False
        apart = float(np.linalg.norm(cached - answers, axis=1).max())
        return apart <= SAME or (apart <= ALIKE and apart <= 3 * self._batch_noise())

    def _batch_noise(self) -> float:
        """How far apart a text's vectors are when it is encoded among others and alone."""
        if self._noise < 0:
            alone = _join([_encode([text], self._encoder) for text in self._texts])
            self._noise = float(np.linalg.norm(alone - self._vectors, axis=1).max())
        return self._noise


def _fill(pool: _Pool, missing: np.ndarray, state: _EncoderState, cached_width: int | None, encoder: Encoder) -> None:
    """Encode the texts of the `missing` rows, shard by shard.

    Raises:
        ValueError: If cached vectors of this encoder have another width.
    """
    if state.replaced:
        warnings.warn(
            f"`encoder` ({state.identity['encoder']}) does not answer with the cached vectors of these texts: they "
            "are embedded again.",
            stacklevel=5,
        )
    sample = _encode_sample(pool, missing, encoder) if state.sample is None else state.sample
    width, total = sample.vectors.shape[1], len(missing)
    if cached_width not in (None, width):
        raise ValueError(
            f"`encoder_id` must name one encoder, got vectors of width {width} where the cached ones have "
            f"{cached_width}: choose another id."
        )
    with friendly_disk_errors(state.target):
        state.target.mkdir(exist_ok=True)
        check_room(state.target, 4 * total * width)
    seconds = sample.seconds * int(pool.lengths[missing].sum())
    if seconds > ANNOUNCE_SECONDS:
        tqdm.write(
            f"hf-gip: embedding {total:,} texts with {state.identity['encoder']}: {width} dims, "
            f"{4 * total * width / 1e6:,.0f} MB on disk, one pass, about {format_seconds(seconds)}; if stopped, it "
            "goes on there."
        )
    remaining = np.setdiff1d(missing, sample.rows, assume_unique=True)
    first = max(0, SHARD_ROWS - len(sample.rows))  # the sample's vectors are the first of the first shard
    with tqdm(total=total, unit="text", desc="Embedding") as bar:
        bar.update(len(sample.rows))
        texts, vectors = pool.texts(sample.rows), [sample.vectors]
        for start, stop in pairwise([0, *range(first, len(remaining), SHARD_ROWS), len(remaining)]):
            if start < stop:
                texts += (further := pool.texts(remaining[start:stop]))
                vectors.append(_encode(further, encoder, bar))
            write_shard(state.target, hash_texts(texts), _join(vectors))
            texts, vectors = [], []


def _encode_sample(pool: _Pool, rows: np.ndarray, encoder: Encoder) -> _Sample:
    """Encode a few of `rows`; the first text, which may wake a device, is not timed."""
    rows = pool.sample(rows)
    texts = pool.texts(rows)
    vectors = [_encode(texts[:1], encoder)]
    start = time.perf_counter()
    if texts[1:]:
        vectors.append(_encode(texts[1:], encoder))
    seconds = time.perf_counter() - start
    return _Sample(rows, _join(vectors), seconds / max(1, sum(map(len, texts[1:]))))


def _encode(texts: list[str], encoder: Encoder, bar: Any = None) -> np.ndarray:
    """Unit float32 vectors in the order of `texts`, none of them empty, encoded in batches of like length."""
    order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
    parts: list[np.ndarray] = []
    for batch in _batches(order):
        vectors = answer_to_array(encoder.encode([texts[row] for row in batch]), len(batch))
        vectors /= np.maximum(
            np.abs(vectors).max(axis=1, keepdims=True), np.finfo(np.float64).tiny
        )  # squares are finite
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        parts.append((vectors / np.where(norms == 0, 1, norms)).astype(np.float32))
        if bar is not None:
            bar.update(len(batch))
    return _join(parts)[np.argsort(order)]


def _join(parts: list[np.ndarray]) -> np.ndarray:
    """Several answers as one matrix.

    Raises:
        ValueError: If they are not equally wide.
    """
    widths = list(dict.fromkeys(part.shape[1] for part in parts))
    if len(widths) > 1:
        raise ValueError(f"`encoder` must return vectors of one width, got {widths[0]} and then {widths[1]}.")
    return np.concatenate(parts)


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    remaining = iter(items)
    while batch := list(islice(remaining, BATCH_ROWS)):
        yield batch
