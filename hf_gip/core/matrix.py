"""Matrices with one row per example that need not be in memory, nor in one piece, nor in one process."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.validation import check_matrix
from hf_gip.distributed import RowPartition, check_on_all

BLOCK_BYTES = 1 << 26
GRAM_ROWS = 8192  # rows multiplied at a time


@runtime_checkable
class MatrixSource(Protocol):
    """A matrix that is read row by row or in one walk: gradient stores and files are such, and `InMemoryMatrix`."""

    @property
    def n(self) -> int:
        """Number of rows."""
        ...

    @property
    def d(self) -> int:
        """Width of a row."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers."""
        ...

    def rows(self, indices: Int64[Tensor, " k"]) -> Float[Tensor, "k d"]:
        """The rows at `indices`, in that order."""
        ...

    def chunks(self) -> Iterator[tuple[int, Float[Tensor, "c d"]]]:
        """Every row once, in order: (number of the first row, the rows)."""
        ...


@dataclass(frozen=True, slots=True)
class InMemoryMatrix:
    """A tensor as `MatrixSource`.

    Attributes:
        matrix: One row per example, (n, d).
    """

    matrix: Float[Tensor, "n d"]

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.matrix.shape[0]

    @property
    def d(self) -> int:
        """Width of a row."""
        return self.matrix.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers."""
        return self.matrix.dtype

    def rows(self, indices: Int64[Tensor, " k"]) -> Float[Tensor, "k d"]:
        """The rows at `indices`, in that order."""
        return self.matrix[indices.to(self.matrix.device)]

    def chunks(self) -> Iterator[tuple[int, Float[Tensor, "c d"]]]:
        """Every row once, in order, some 64 MB at a time."""
        step = max(1, BLOCK_BYTES // (self.d * self.matrix.element_size()))
        for start in range(0, self.n, step):
            yield start, self.matrix[start : start + step]


def as_source(name: str, matrix: Tensor | MatrixSource) -> MatrixSource:
    """The argument `name`, checked, as `MatrixSource`; tensors that record gradients are detached.

    Raises:
        TypeError: If it is neither a floating-point tensor nor a `MatrixSource`.
        ValueError: If a tensor is no finite matrix.
    """
    if isinstance(matrix, Tensor) or not isinstance(matrix, MatrixSource):
        check_matrix(name, matrix)
        return InMemoryMatrix(matrix.detach())
    return matrix


@dataclass(frozen=True, slots=True)
class RowRange:
    """Consecutive rows of another matrix, as `MatrixSource`: what one rank looks at.

    Attributes:
        source: All rows.
        first: Number of the first row of the range.
        n: Number of rows.
    """

    source: MatrixSource
    first: int
    n: int

    @property
    def d(self) -> int:
        """Width of a row."""
        return self.source.d

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers."""
        return self.source.dtype

    def rows(self, indices: Int64[Tensor, " k"]) -> Float[Tensor, "k d"]:
        """The rows at `indices`, in that order."""
        return self.source.rows(indices + self.first)

    def chunks(self) -> Iterator[tuple[int, Float[Tensor, "c d"]]]:
        """Every row once, in order; of the others nothing is read where they are on disk."""
        for start, chunk in self.source.chunks():
            begin, end = max(self.first - start, 0), min(self.first + self.n - start, len(chunk))
            if begin < end:
                yield start + begin - self.first, chunk[begin:end]


@dataclass(frozen=True, slots=True)
class SelectedRows:
    """Some rows of another matrix, numbered anew, as `MatrixSource`.

    Attributes:
        source: All rows.
        numbers: Which, ascending, (p,).
    """

    source: MatrixSource
    numbers: Int64[Tensor, " p"]

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.numbers)

    @property
    def d(self) -> int:
        """Width of a row."""
        return self.source.d

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers."""
        return self.source.dtype

    def rows(self, indices: Int64[Tensor, " k"]) -> Float[Tensor, "k d"]:
        """The rows at `indices`, in that order."""
        return self.source.rows(self.numbers[indices])

    def chunks(self) -> Iterator[tuple[int, Float[Tensor, "c d"]]]:
        """Every row once, in order."""
        for start, chunk in self.source.chunks():
            begin, end = torch.searchsorted(self.numbers, torch.tensor([start, start + len(chunk)])).tolist()
            if begin < end:
                yield begin, chunk[self.numbers[begin:end] - start]


@dataclass(frozen=True, slots=True)
class OneHotMatrix:
    """Another matrix with a column more for each value of some categories, as `MatrixSource`.

    Attributes:
        source: The columns that come first.
        codes: For each category the number of each row's value, −1 where it has none, (n,).
        sizes: How many values each has.
        values: What stands in a row's column of each.
    """

    source: MatrixSource
    codes: Sequence[Int64[Tensor, " n"]]
    sizes: Sequence[int]
    values: Sequence[float]

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.source.n

    @property
    def d(self) -> int:
        """Width of a row."""
        return self.source.d + sum(self.sizes)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers."""
        return self.source.dtype

    def rows(self, indices: Int64[Tensor, " k"]) -> Float[Tensor, "k d"]:
        """The rows at `indices`, in that order."""
        return self._widen(self.source.rows(indices), indices)

    def chunks(self) -> Iterator[tuple[int, Float[Tensor, "c d"]]]:
        """Every row once, in order."""
        for start, chunk in self.source.chunks():
            yield start, self._widen(chunk, torch.arange(start, start + len(chunk)))

    def _widen(self, rows: Float[Tensor, "c w"], indices: Int64[Tensor, " c"]) -> Float[Tensor, "c d"]:
        wide = torch.cat([rows, rows.new_zeros(len(rows), sum(self.sizes))], dim=1)
        first = self.source.d
        for code, size, value in zip(self.codes, self.sizes, self.values, strict=True):
            columns = code[indices]
            present = torch.nonzero(columns >= 0).flatten()
            wide[present.to(wide.device), (first + columns[present]).to(wide.device)] = value
            first += size
        return wide


def select_rows(source: MatrixSource, numbers: Int64[Tensor, " p"]) -> MatrixSource:
    """The rows `numbers`, ascending, as a matrix of their own; those in memory are copied."""
    if isinstance(source, InMemoryMatrix):
        return InMemoryMatrix(source.rows(numbers))
    return SelectedRows(source, numbers)


def row_range(source: MatrixSource, rows: range) -> MatrixSource:
    """Consecutive rows as a matrix of their own, none of them copied."""
    if isinstance(source, InMemoryMatrix):
        return InMemoryMatrix(source.matrix[rows.start : rows.stop])
    return RowRange(source, rows.start, len(rows))


def on_device(source: MatrixSource, device: str | torch.device | None) -> MatrixSource:
    """The matrix on `device`: rows on disk stay there for the CPU, and go to a GPU chunk by chunk."""
    if isinstance(source, InMemoryMatrix):
        return InMemoryMatrix(source.matrix.to(device))
    if device is None or torch.device(device).type == "cpu":
        return source
    return InMemoryMatrix(load_matrix(source, device))


def load_matrix(source: MatrixSource, device: str | torch.device | None = None) -> Float[Tensor, "n d"]:
    """All rows as one tensor."""
    if isinstance(source, InMemoryMatrix):
        return source.matrix.to(device)
    matrix = torch.empty(source.n, source.d, dtype=source.dtype, device=device)
    for start, chunk in source.chunks():
        matrix[start : start + len(chunk)] = chunk
    return matrix


@dataclass(frozen=True, slots=True)
class ConcatenatedMatrix:
    """Several matrices of the same rows side by side as one wide one, each with a scale.

    Attributes:
        parts: The matrices, each with the same n.
        scales: What each is multiplied by.
    """

    parts: Sequence[MatrixSource]
    scales: Sequence[float]

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.parts[0].n

    @property
    def widths(self) -> list[int]:
        """Width of each part."""
        return [part.d for part in self.parts]

    @property
    def d(self) -> int:
        """Width of all parts together."""
        return sum(self.widths)

    def rows(self, indices: Int64[Tensor, " k"]) -> Float[Tensor, "k d"]:
        """Rows in float64, (k, d)."""
        columns = [part.rows(indices).double() * scale for part, scale in zip(self.parts, self.scales, strict=True)]
        return torch.cat(columns, dim=1)

    def products(self, directions: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
        """Inner products of all rows with float64 `directions`: one walk, summed per part in the part's precision."""
        out: Tensor | None = None
        for part, scale, columns in zip(self.parts, self.scales, directions.split(self.widths, dim=1), strict=True):
            for start, chunk in part.chunks():
                dtype = working_dtype(chunk.dtype)
                if out is None:
                    out = torch.zeros(self.n, len(directions), dtype=torch.float64, device=chunk.device)
                out[start : start + len(chunk)] += chunk.to(dtype) @ (scale * columns).to(dtype).T.to(chunk.device)
        return out if out is not None else directions.new_zeros(0, len(directions))

    def means(self) -> tuple[Float[Tensor, " d"], float]:
        """The mean row and the mean energy of a row, float64, in one walk.

        Raises:
            ValueError: If a row is not finite.
        """
        sums = [torch.zeros(width, dtype=torch.float64) for width in self.widths]
        energy = 0.0
        for number, (part, scale) in enumerate(zip(self.parts, self.scales, strict=True)):
            for start, chunk in part.chunks():
                norms = torch.linalg.vector_norm(chunk, dim=1, dtype=torch.float64)
                if not bool(norms.isfinite().all()):
                    bad = start + int(torch.nonzero(~norms.isfinite())[0])
                    raise ValueError(
                        f"`trajectories` must be finite, got NaN or infinity, first in row {bad} of part {number}: "
                        "drop or recompute such rows."
                    )
                energy += float(norms.square().sum()) * scale * scale
                sums[number] += chunk.sum(0, dtype=torch.float64).cpu() * scale
        return torch.cat(sums) / self.n, energy / self.n


@dataclass(frozen=True, slots=True)
class ShardedMatrix:
    """A matrix whose rows are shared out over ranks, numbered through; in one process without a group.

    Attributes:
        local: The rows of this rank.
        partition: Which rank holds which.
    """

    local: ConcatenatedMatrix
    partition: RowPartition

    @property
    def n(self) -> int:
        """Number of rows of all ranks."""
        return self.partition.n

    @property
    def d(self) -> int:
        """Width of a row."""
        return self.local.d

    @property
    def comm_device(self) -> torch.device:
        """Where tensors must be for the group to send them."""
        group = self.partition.group
        return torch.device("cuda" if group is not None and dist.get_backend(group) == "nccl" else "cpu")

    def means(self) -> tuple[Float[Tensor, " d"], float]:
        """The mean row and the mean energy of a row, of all ranks.

        Raises:
            ValueError: If a row is not finite, on every rank.
        """
        mean, energy = check_on_all(self.local.means, self.partition.group)
        if self.partition.group is None:
            return mean, energy
        sums = torch.cat([mean, mean.new_tensor([energy])]) * self.local.n
        sums = self.partition.all_reduce_sum(sums.to(self.comm_device)).cpu() / self.n
        return sums[:-1], float(sums[-1])

    def top_rows(
        self, scores: Float[Tensor, " n"], excluded: Int64[Tensor, " s"], width: int
    ) -> tuple[Int64[Tensor, " f"], Float[Tensor, " f"]]:
        """The `width` rows of largest score, of equals the lower first, and their scores.

        Args:
            scores: Of this rank's rows.
            excluded: Numbers of rows that do not count.
            width: Number of rows at most.
        """
        scores = scores.clone()
        scores[self.partition.local(excluded)] = -torch.inf
        order = torch.sort(scores, descending=True, stable=True).indices[:width]
        pairs = torch.stack([scores[order], (order + self.partition.offset).double()], dim=1)
        pairs = self.partition.gather_rows(pairs.to(self.comm_device), width).cpu()
        pairs = pairs[torch.sort(pairs[:, 0], descending=True, stable=True).indices[:width]]
        pairs = pairs[pairs[:, 0] > -torch.inf]
        return pairs[:, 1].long(), pairs[:, 0]

    def rows(self, numbers: Int64[Tensor, " k"]) -> Float[Tensor, "k d"]:
        """Rows in float64, (k, d), on the CPU of every rank."""
        return gather_numbered(self.local, numbers, self.partition, self.comm_device).cpu()


def gather_numbered(
    source: MatrixSource | ConcatenatedMatrix,
    numbers: Int64[Tensor, " k"],
    partition: RowPartition,
    comm_device: torch.device | None = None,
) -> Float[Tensor, "k d"]:
    """The rows `numbers`, whichever rank holds them, in float64 on every rank."""
    if partition.group is None:
        return source.rows(numbers).double()
    is_local = partition.is_local(numbers)
    rows = source.rows(numbers[is_local] - partition.offset).double()
    out = rows.new_zeros(len(numbers), source.d)  # every row is zero on all ranks but one
    out[is_local.to(out.device)] = rows
    return partition.all_reduce_sum(out if comm_device is None else out.to(comm_device))


def iter_chunks(source: MatrixSource, size: int) -> Iterator[tuple[slice, Float[Tensor, "c d"]]]:
    """The chunks of `source`, cut to at most `size` rows each so that they stay in the cache, with their positions."""
    for first, chunk in source.chunks():
        for start in range(0, len(chunk), size):
            rows = chunk[start : start + size]
            yield slice(first + start, first + start + len(rows)), rows


@torch.no_grad()
def gram(
    source: MatrixSource, dtype: torch.dtype, scale: Float[Tensor, " n"] | None = None, *, unit: float = 1.0
) -> Float[Tensor, "d d"]:
    """XᵀX / `unit`² of the scaled rows, multiplied chunk by chunk in `dtype` and summed in float64.

    A `unit` near the rows' size, a power of two, keeps the squares of 1e20 or of 1e-30 inside float32.
    """
    total: Tensor | None = None
    for positions, rows in iter_chunks(source, GRAM_ROWS):
        rows = rows.to(dtype) / unit if unit != 1.0 else rows.to(dtype)
        scaled = rows if scale is None else rows * scale[positions, None]
        product = (scaled.T @ scaled).double()
        total = product if total is None else total.add_(product)
    return torch.zeros(source.d, source.d, dtype=torch.float64) if total is None else total


@torch.no_grad()
def unit_rows(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows of length one; zero rows stay zero."""
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64).to(rows.dtype)
    return rows / norms.clamp(min=torch.finfo(rows.dtype).tiny)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type to sum in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
