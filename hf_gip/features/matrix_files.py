"""Matrices on disk, read a range of rows at a time."""

import json
import mmap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from jaxtyping import Float, Int64
from safetensors import SafetensorError, safe_open
from torch import Tensor

CHUNK_BYTES = 1 << 24
SAFETENSORS_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive rows in one place.

    Attributes:
        tensor: The rows, (n, d), read from disk when touched.
        mapping: The memory map below, where pages can be given back.
        offset: Where in it the rows begin, in bytes.
    """

    tensor: Tensor
    mapping: mmap.mmap | None = None
    offset: int = 0

    def release(self, first: int, count: int) -> None:
        """Give back the memory of `count` rows from `first` on; they can be read again."""
        if self.mapping is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        width = self.tensor.shape[1] * self.tensor.element_size()
        start = (self.offset + first * width) // mmap.PAGESIZE * mmap.PAGESIZE
        self.mapping.madvise(mmap.MADV_DONTNEED, start, self.offset + (first + count) * width - start)


@dataclass(frozen=True, slots=True)
class FileMatrix:
    """Rows in files, a `MatrixSource` for the selectors.

    Attributes:
        parts: The files, in order.
        counts: How many rows each holds.
    """

    parts: tuple[Part, ...]
    counts: tuple[int, ...]

    @property
    def n(self) -> int:
        """How many rows there are."""
        return sum(self.counts)

    @property
    def d(self) -> int:
        """How wide a row is."""
        return self.parts[0].tensor.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """The rows' type on disk."""
        return self.parts[0].tensor.dtype

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def rows(self, indices: Int64[Tensor, " k"]) -> Float[Tensor, "k d"]:
        """The rows at `indices`, in that order, (k, d), read one by one."""
        ends = torch.tensor(self.counts).cumsum(0)
        part_numbers = torch.searchsorted(ends, indices, right=True)
        out = torch.empty(len(indices), self.d, dtype=self.dtype)
        for number in part_numbers.unique().tolist():
            in_part = part_numbers == number
            first = int(ends[number]) - self.counts[number]
            out[in_part] = self.parts[number].tensor[indices[in_part] - first]
        return out

    def chunks(self) -> Iterator[tuple[int, Float[Tensor, "c d"]]]:
        """Every row once, in order, some 16 MB at a time: (number of the first row, the rows)."""
        first = 0
        for part in self.parts:
            step = max(1, CHUNK_BYTES // (self.d * part.tensor.element_size()))
            for start in range(0, len(part.tensor), step):
                chunk = part.tensor[start : start + step]
                yield first + start, chunk
                part.release(start, len(chunk))
            first += len(part.tensor)

    def load(self) -> Float[Tensor, "n d"]:
        """All rows as one tensor in memory."""
        return torch.cat([part.tensor for part in self.parts])


def npy_rows(path: str | Path) -> FileMatrix:
    """A matrix saved by `numpy.save`, read from the disk chunk by chunk: memory does not grow with n.

    Args:
        path: The `.npy` file, of shape (n, d).

    Returns:
        The rows, as `hf_gip.gip` and `hf_gip.gtp` take them in place of a tensor.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is not a C-ordered matrix of floating-point numbers.
    """
    try:
        header = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # numpy's header parser raises many kinds
        raise ValueError(
            f"`path` must hold a matrix saved by `numpy.save`, got {Path(path).name!r}: {error}."
        ) from None
    if not isinstance(header, np.memmap) or header.ndim != 2 or header.dtype.kind != "f":
        kind = f"shape {header.shape} of {header.dtype}" if isinstance(header, np.ndarray) else type(header).__name__
        raise ValueError(f"`path` must hold a matrix of floating-point numbers, got {kind} in {path}.")
    if not header.flags.c_contiguous:
        raise ValueError(f"`path` must hold rows one after another, got columns in {path}: save a C-ordered copy.")
    dtype = torch.from_numpy(np.empty(0, header.dtype)).dtype
    return concat([memory_map(Path(path), dtype, header.shape, header.offset)], str(path))


def safetensors_rows(paths: Sequence[str | Path], name: str) -> FileMatrix:
    """The tensors `name` of several safetensors files, one below the other.

    Raises:
        ValueError: If a file lacks the tensor, or it is no matrix of floating-point numbers.
    """
    parts = []
    for path in map(Path, paths):
        try:  # the library checks that header, shapes and offsets fit the file, whoever wrote it
            with safe_open(path, "pt") as opened:
                names = list(opened.keys())
        except SafetensorError as error:
            raise ValueError(f"`paths` must hold safetensors files, got {path.name!r}: {error}.") from None
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            entries: dict[str, Any] = json.loads(file.read(size))
        entry = entries.get(name)
        if entry is None or len(entry["shape"]) != 2 or entry["dtype"] not in SAFETENSORS_TYPES:
            raise ValueError(f"`paths` must hold a floating-point matrix {name!r}, got {', '.join(names)} in {path}.")
        begin = 8 + size + entry["data_offsets"][0]
        parts.append(memory_map(path, SAFETENSORS_TYPES[entry["dtype"]], tuple(entry["shape"]), begin))
    return concat(parts, ", ".join(map(str, paths)))


def is_valid_safetensors(path: Path) -> bool:
    """Whether a safetensors file is there and whole, as far as its header can tell."""
    try:
        with safe_open(path, "pt"):
            return True
    except (SafetensorError, OSError):
        return False


def column_rows(dataset: Dataset, name: str) -> FileMatrix:
    """A column of equally long lists of numbers, read from the dataset's own Arrow buffers without a copy.

    Args:
        dataset: The rows, in the order in which they are stored.
        name: The column, a `List` of one `length` d of floating-point numbers.

    Returns:
        The rows, (n, d), as `hf_gip.gip` and `hf_gip.gtp` take them in place of a tensor.

    Raises:
        ValueError: If the column is unknown or not a fixed-size list of floating-point numbers without nulls, or the
            dataset is a selection of another's rows.
    """
    if name not in dataset.column_names:
        raise ValueError(f"`name` must be a column of the dataset {dataset.column_names}, got {name!r}.")
    if dataset._indices is not None:
        raise ValueError("`dataset` must hold its rows in order, got a selection of them: `flatten_indices()` first.")
    parts = []
    for chunk in dataset.data.column(name).chunks:
        kind = chunk.type
        if not (pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type)) or chunk.null_count:
            raise ValueError(
                f"`name` must be a column of fixed-size lists of floating-point numbers, got {kind}: cast it with "
                "`datasets.List(datasets.Value('float32'), length=…)`."
            )
        parts.append(Part(_arrow_tensor(chunk.flatten(), kind.list_size)))
    return concat(parts, name)


def _arrow_tensor(values: Any, width: int) -> Tensor:
    """A flat Arrow array as rows of `width`, in place."""
    with warnings.catch_warnings():  # Arrow's memory is read-only, and nothing here writes to it
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(values.to_numpy(zero_copy_only=True)).view(-1, width)


def memory_map(path: Path, dtype: torch.dtype, shape: tuple[int, ...], offset: int) -> Part:
    """A matrix that begins `offset` bytes into a file, as a private map: copied on write, never written back.

    Raises:
        ValueError: If the file is too short for it.
    """
    rows, width = shape
    size = rows * width * dtype.itemsize
    if path.stat().st_size < offset + size:
        raise ValueError(
            f"`path` must hold {rows} rows of {width} numbers, got a shorter file {path}: it was cut off, "
            "make it anew."
        )
    if size == 0:
        return Part(torch.empty(rows, width, dtype=dtype))
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    flat = torch.frombuffer(mapping, dtype=dtype, count=rows * width, offset=offset)
    return Part(flat.view(rows, width), mapping, offset)


def concat(parts: Sequence[Part], where: str) -> FileMatrix:
    """The parts as one matrix.

    Raises:
        ValueError: If there are none, or their widths or types differ.
    """
    if not any(len(part.tensor) for part in parts):
        raise ValueError(f"a matrix on disk must have at least one row, got none in {where}.")
    kinds = {(part.tensor.shape[1], part.tensor.dtype) for part in parts}
    if len(kinds) > 1:
        raise ValueError(f"parts of a matrix must have one width and type, got {sorted(map(str, kinds))} in {where}.")
    return FileMatrix(tuple(parts), tuple(len(part.tensor) for part in parts))
