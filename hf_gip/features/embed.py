"""Texts → one unit vector per row, computed shard by shard into the datasets cache, resumable after a kill."""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, config
from datasets.utils import tqdm
from filelock import FileLock
from jaxtyping import Float
from torch import Tensor

from hf_gip.core.validation import check_device
from hf_gip.disk import CACHE, written
from hf_gip.features.encoders import Encoder, NamedEncoder, as_numpy, name_encoder
from hf_gip.features.text import TextRecipe, iter_texts, text_recipe

VERSION = 1  # of the vectors' recipe: raise it when the same inputs would give other vectors
SHARD_ROWS = 2_048  # what a kill can cost at most
BATCH_ROWS = 512  # per call of `encode`, of like length
SAMPLE_ROWS = 16  # encoded first, to find the width and to estimate the time
ANNOUNCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Features:
    """Vectors with the recipe that made them.

    Attributes:
        matrix: One row per example, (n, d); memory-mapped where it comes from the cache.
        recipe: Plain JSON: encoder identity, columns, normalisation, width; enough to compute the vectors again.
    """

    matrix: Float[Tensor, "n d"]
    recipe: dict[str, Any]


def embed(
    dataset: Dataset,
    encoder: str | Encoder,
    *,
    columns: Sequence[str] | None = None,
    template: str | None = None,
    device: str | None = None,
) -> Features:
    """Embed the rows' texts as unit vectors, (n, d) float32, through the datasets cache.

    The cache key is (dataset fingerprint, encoder identity, columns or template). Rows are written in shards of 2,048,
    so a killed run goes on at the last finished shard; two processes on one key wait for each other. An empty text
    becomes a zero vector. Memory does not grow with n; disk 4 n d bytes.

    Args:
        dataset: The rows; an indices mapping and any format are respected.
        encoder: `"lexical"`, a sentence-transformers id (`id@revision` pins it) or folder, or an object with `encode`.
        columns: Text columns, instead of the detected layout.
        template: A format string naming columns in braces, instead of joining columns.
        device: Torch device for sentence-transformers models.

    Returns:
        The vectors and their recipe.

    Raises:
        OSError: If the disk is full, or does not give back what was written.
        TypeError: If `dataset` or `encoder` is of another kind.
        ValueError: If the dataset or all texts are empty, or the encoder answers with wrong counts or NaN.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"`dataset` must be a `datasets.Dataset`, got {type(dataset).__name__}.")
    if not len(dataset):
        raise ValueError("`dataset` must have at least one row, got 0: check the split or the filter before it.")
    texts = text_recipe(dataset, columns, template)
    check_device(device)
    named = name_encoder(encoder, device=device)
    recipe = {
        "kind": "text",
        "version": VERSION,
        **named.identity,
        "columns": list(texts.columns),
        "template": texts.template,
        "normalized": True,
    }
    folder = _cache_folder(dataset, recipe)
    found = _finished(folder, len(dataset))
    if found is None:
        with written(folder, CACHE):
            folder.mkdir(parents=True, exist_ok=True)
        with written(folder, CACHE), FileLock(folder / "lock"):
            if (found := _finished(folder, len(dataset))) is None:
                _fill(folder, dataset, texts, named)
                found = _finished(folder, len(dataset))
    if found is None:
        raise OSError(f"the features in {str(folder)!r} cannot be read back: check the disk.")
    matrix, empty = found
    return Features(torch.from_numpy(matrix), recipe | {"dims": matrix.shape[1], "empty_rows": empty})


def embed_texts(texts: Sequence[str], encoder: str | Encoder, *, device: str | None = None) -> Float[Tensor, "m d"]:
    """Embed a few texts as unit vectors, without the cache.

    Raises:
        ValueError: If there is no text, or a text is empty.
    """
    if not texts:
        raise ValueError("`target` must hold at least one text, got none.")
    if blank := [i for i, text in enumerate(texts) if not text.strip()]:
        raise ValueError(f"`target` must hold no empty text, got {len(blank)}, first at position {blank[0]}: drop it.")
    return torch.from_numpy(_encode(list(texts), name_encoder(encoder, device=device).load()))


def _cache_folder(dataset: Dataset, recipe: dict[str, Any]) -> Path:
    key = json.dumps([dataset._fingerprint, len(dataset), recipe], sort_keys=True)
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    return Path(config.HF_DATASETS_CACHE) / "hf_gip" / "features" / name


def _finished(folder: Path, n: int) -> tuple[np.ndarray, int] | None:
    """The finished matrix and its number of empty rows; None where there is none, or the disk has damaged it."""
    try:
        matrix = np.load(folder / "features.npy", mmap_mode="c", allow_pickle=False)  # "c": torch wants writable pages
        empty = json.loads((folder / "survey.json").read_text())["empty_rows"]
    except Exception:  # absent, or damaged: numpy's header parser raises many kinds
        return None
    good = isinstance(matrix, np.memmap) and matrix.ndim == 2 and len(matrix) == n and matrix.dtype == np.float32
    return (matrix, empty) if good else None


def _fill(folder: Path, dataset: Dataset, texts: TextRecipe, named: NamedEncoder) -> None:
    """Compute the missing shards of `folder`, then put the whole matrix in place."""
    lengths = _survey(folder, dataset, texts)
    encoder = named.load()
    width, seconds = _sample(dataset, texts, encoder, lengths)
    n = len(dataset)
    starts = [start for start in range(0, n, SHARD_ROWS) if not _marker(folder, start).exists()]
    if seconds > ANNOUNCE_SECONDS:
        left = seconds * sum(min(SHARD_ROWS, n - start) for start in starts) / n
        tqdm.write(
            f"hf-gip: embedding {n:,} rows with {named.identity['encoder']}: {width} dims, "
            f"{4 * n * width / 1e6:,.0f} MB on disk, one pass, about {_clock(left)}; if stopped, it goes on there."
        )
    part = folder / "features.part"
    with _open_part(part, (n, width)) as file, tqdm(total=n, unit="row", desc="Embedding") as bar:
        header = file.seek(0, os.SEEK_END) - 4 * n * width
        bar.update(n - sum(min(SHARD_ROWS, n - start) for start in starts))
        for start in starts:
            rows = _encode(_shard(dataset, texts, start), encoder, bar)
            file.seek(header + 4 * start * width)
            file.write(rows.tobytes())
            file.flush()
            os.fsync(file.fileno())
            _marker(folder, start).touch()
    os.replace(part, folder / "features.npy")  # last: its presence means the rest is complete
    for path in folder.glob("done-*"):
        path.unlink()


def _survey(folder: Path, dataset: Dataset, texts: TextRecipe) -> int:
    """Total characters of the texts; how many rows are empty is noted in the folder.

    Raises:
        ValueError: If all of them are.
    """
    empty = characters = 0
    for text in iter_texts(dataset, texts):
        empty += not text.strip()
        characters += len(text)
    if empty == len(dataset):
        raise ValueError(
            f"`columns` must hold text, got {len(dataset)} empty texts from {list(texts.columns)}: name other columns."
        )
    aside = folder / "survey.part"
    aside.write_text(json.dumps({"empty_rows": empty}))
    os.replace(aside, folder / "survey.json")
    return characters


def _sample(dataset: Dataset, texts: TextRecipe, encoder: Encoder, characters: int) -> tuple[int, float]:
    """The vectors' width, and the seconds all rows should take, from a few rows spread over the pool."""
    spread = np.linspace(0, len(dataset) - 1, min(SAMPLE_ROWS, len(dataset))).astype(int)
    sample = list(iter_texts(dataset.select(spread), texts))
    _encode(sample[:1] or [""], encoder)  # warm up
    start = time.perf_counter()
    width = _encode(sample, encoder).shape[1]
    seconds = time.perf_counter() - start
    return width, seconds * characters / max(1, sum(map(len, sample)))


def _shard(dataset: Dataset, texts: TextRecipe, start: int) -> list[str]:
    stop = min(start + SHARD_ROWS, len(dataset))
    return list(iter_texts(dataset.select(range(start, stop)), texts))


def _encode(texts: list[str], encoder: Encoder, bar: Any = None) -> np.ndarray:
    """Unit float32 vectors in the order of `texts`, encoded in batches of like length; zero for empty texts.

    Raises:
        ValueError: If the encoder answers with a wrong count, NaN or infinity.
    """
    order = sorted((i for i, text in enumerate(texts) if text.strip()), key=lambda i: -len(texts[i]))
    rows: np.ndarray | None = None
    for batch in _batches(order):
        vectors = as_numpy(encoder.encode([texts[i] for i in batch])).astype(np.float32)
        if vectors.ndim != 2 or len(vectors) != len(batch) or not np.isfinite(vectors).all():
            raise ValueError(
                f"`encoder` must give one finite vector per text, got shape {vectors.shape} for {len(batch)} texts"
                f"{'' if np.isfinite(vectors).all() else ' with NaN or infinity'}: check its `encode`."
            )
        rows = np.zeros((len(texts), vectors.shape[1]), np.float32) if rows is None else rows
        rows[batch] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        if bar is not None:
            bar.update(len(batch))
    if rows is None:  # nothing but empty texts: only the width is needed from the encoder
        rows = np.zeros((len(texts), as_numpy(encoder.encode(["."])).shape[1]), np.float32)
    if bar is not None:
        bar.update(len(texts) - len(order))
    return rows


def _batches(order: list[int]) -> Iterator[list[int]]:
    remaining = iter(order)
    while batch := list(islice(remaining, BATCH_ROWS)):
        yield batch


def _open_part(path: Path, shape: tuple[int, int]) -> Any:
    """The unfinished matrix, opened for writing in place; its size is claimed first, so a full disk shows at once."""
    size = 4 * shape[0] * shape[1]
    if not path.exists():
        aside = path.with_suffix(".new")
        with aside.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            _claim(file, size)
        os.replace(aside, path)
    return path.open("r+b")


def _claim(file: Any, size: int) -> None:
    start = file.tell()
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), start, size)
        else:
            file.truncate(start + size)
    except OSError as error:
        raise OSError(
            f"the cache folder has no room for {size / 1e6:,.0f} MB of features ({error.strerror}): free space "
            "there or point HF_DATASETS_CACHE to another disk."
        ) from error


def _marker(folder: Path, start: int) -> Path:
    return folder / f"done-{start:012d}"


def _clock(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
