"""Vectors on disk, each known by its text: shards of 16-byte keys and unit vectors, written whole or not at all."""

import contextlib
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors import SafetensorError, safe_open

from hf_gip.hashing import hash_tensors
from hf_gip.io import CACHE_ADVICE, save_safetensors_atomically

KEY_BYTES = 16
IN_MEMORY = 1 << 28  # bytes of a matrix up to which it is gathered in memory, beyond in a file without a name


class EmbeddingCache:
    """The vectors in some folders, each of which holds those of one encoder.

    Opening reads the keys: about 10 ms a million. A shard's vectors are compared with their digest when one of them
    is first looked up, about 2 GB/s. A shard that is damaged, or was written for another folder, is deleted and said.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._shards: list[_Shard] = []
        for path in sorted({path for folder in folders for path in folder.glob("*.safetensors")}):
            try:
                self._shards.append(_Shard(path))
            except FileNotFoundError:  # another process found it damaged
                continue
            except (SafetensorError, OSError, ValueError, KeyError, TypeError):
                _discard(path)
        self._index()

    @property
    def width(self) -> int | None:
        """How many numbers a vector has; None where there is none."""
        return self._shards[0].width if self._shards else None

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Where the vectors of the texts with these `keys` are, (n,), −1 where there is none."""
        while True:
            indices = pc.call_function("index_in", [_binary(keys)], pc.SetLookupOptions(_binary(self._keys)))
            positions = pc.fill_null(indices, -1).to_numpy().astype(np.int64)
            used = np.unique(np.searchsorted(self._starts, positions[positions >= 0], side="right")) - 1
            damaged = [self._shards[number] for number in used if not self._shards[number].is_intact()]
            if not damaged:
                return positions
            for shard in damaged:
                _discard(shard.path)
                self._shards.remove(shard)
            self._index()

    def gather(self, positions: np.ndarray, into: np.ndarray) -> None:
        """Copy the vectors at `positions` into the rows of `into`; rows without a place stay as they are."""
        order = np.argsort(positions, kind="stable")
        cuts = np.searchsorted(positions[order], [*self._starts, len(self._keys)])
        for shard, start, first, last in zip(self._shards, self._starts, cuts[:-1], cuts[1:], strict=True):
            rows = order[first:last]
            if len(rows):
                into[rows] = shard.vectors()[positions[rows] - start]

    def _index(self) -> None:
        lengths = [len(shard.keys) for shard in self._shards]
        self._starts = np.cumsum([0, *lengths])[:-1]
        self._keys = np.concatenate([np.empty(0, "S16"), *(shard.keys for shard in self._shards)])


class _Shard:
    """One file, mapped into memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = safe_open(path, "pt")
        self._digest = self._file.metadata()["digest"]
        keys, shape = self._file.get_tensor("keys"), self._file.get_slice("vectors").get_shape()
        if keys.dtype != torch.uint8 or keys.shape != (shape[0], KEY_BYTES) or len(shape) != 2:
            raise ValueError(shape)
        self.width = shape[1]
        self.keys = keys.numpy().reshape(-1).view("S16")
        self._intact = False
        if path.name != _name(keys) or self._file.metadata()["folder"] != path.parent.name:
            raise ValueError(path.name)

    def is_intact(self) -> bool:
        """Whether keys and vectors are those that were written."""
        if not self._intact:
            tensors = {name: self._file.get_tensor(name) for name in ("keys", "vectors")}
            self._intact = tensors["vectors"].dtype == torch.float32 and hash_tensors(tensors) == self._digest
        return self._intact

    def vectors(self) -> np.ndarray:
        return self._file.get_tensor("vectors").numpy()


def write_shard(folder: Path, keys: np.ndarray, vectors: np.ndarray) -> None:
    """Add vectors to a folder: the file appears whole or not at all."""
    tensors = {
        "keys": torch.from_numpy(keys.view(np.uint8).reshape(-1, KEY_BYTES).copy()),
        "vectors": torch.from_numpy(vectors),
    }
    metadata = {"digest": hash_tensors(tensors), "folder": folder.name}
    save_safetensors_atomically(folder / _name(tensors["keys"]), tensors, metadata)


def empty_matrix(shape: tuple[int, int], folder: Path) -> np.ndarray:
    """Zeros: in memory where they are few, else in a file of the cache that goes with the last who uses it."""
    size = 4 * shape[0] * shape[1]
    if size <= IN_MEMORY:
        return np.zeros(shape, np.float32)
    with tempfile.TemporaryFile(dir=folder) as file:
        _reserve(file, size)
        return np.memmap(file, np.float32, "r+", shape=shape)


def check_room(folder: Path, size: int, name: str = "the cache folder", advice: str = CACHE_ADVICE) -> None:
    """Raise unless the disk has room for so many bytes: before hours of work, not after."""
    with tempfile.TemporaryFile(dir=folder) as file:
        _reserve(file, size, name, advice)


def _reserve(file: Any, size: int, name: str = "the cache folder", advice: str = CACHE_ADVICE) -> None:
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
    except OSError as error:
        raise OSError(
            f"{name} has no room for {size / 1e6:,.0f} MB of features ({error.strerror}): {advice}."
        ) from error


def _discard(path: Path) -> None:
    warnings.warn(f"the cached embeddings in {str(path)!r} are damaged or foreign: they are made again.", stacklevel=2)
    with contextlib.suppress(OSError):  # gone already, or on a disk that is closed
        path.unlink()


def _name(keys: torch.Tensor) -> str:
    return f"{hash_tensors({'keys': keys})}.safetensors"


def _binary(keys: np.ndarray) -> pa.Array:
    """The keys for Arrow, without a copy."""
    contiguous = np.ascontiguousarray(keys)
    return pa.Array.from_buffers(
        pa.binary(KEY_BYTES), len(contiguous), [None, pa.py_buffer(contiguous.view(np.uint8))]
    )
