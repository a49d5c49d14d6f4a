"""Rows that need not be in memory, and several matrices of the same rows side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.checks import check_matrix

BLOCK_BYTES = 1 << 26


@runtime_checkable
class Rows(Protocol):
    """A matrix that is read row by row or in one walk: gradient stores and files are such, and `MemoryRows`."""

    @property
    def n(self) -> int:
        """How many rows there are."""
        ...

    @property
    def d(self) -> int:
        """How wide a row is."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The rows' type."""
        ...

    def rows(self, indices: Int64[Tensor, " k"]) -> Float[Tensor, "k d"]:
        """The rows at `indices`, in that order."""
        ...

    def chunks(self) -> Iterator[tuple[int, Float[Tensor, "c d"]]]:
        """Every row once, in order: (number of the first row, the rows)."""
        ...


def check_rows(name: str, rows: "Tensor | Rows") -> tuple[int, int]:
    """How many rows there are and how wide they are, (n, d).

    Raises:
        TypeError: If they are neither a floating-point tensor nor `Rows`.
        ValueError: If a tensor is no finite matrix.
    """
    if isinstance(rows, Tensor) or not isinstance(rows, Rows):
        check_matrix(name, rows)
        return rows.shape[0], rows.shape[1]
    return rows.n, rows.d


@dataclass(frozen=True, slots=True)
class MemoryRows:
    """A tensor as `Rows`.

    Attributes:
        matrix: One row per example, (n, d).
    """

    matrix: Float[Tensor, "n d"]

    @property
    def n(self) -> int:
        """How many rows there are."""
        return self.matrix.shape[0]

    @property
    def d(self) -> int:
        """How wide a row is."""
        return self.matrix.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """The tensor's type."""
        return self.matrix.dtype

    def rows(self, indices: Int64[Tensor, " k"]) -> Float[Tensor, "k d"]:
        """The rows at `indices`, in that order."""
        return self.matrix[indices.to(self.matrix.device)]

    def chunks(self) -> Iterator[tuple[int, Float[Tensor, "c d"]]]:
        """Every row once, in order, some 64 MB at a time."""
        step = max(1, BLOCK_BYTES // (self.d * self.matrix.element_size()))
        for start in range(0, self.n, step):
            yield start, self.matrix[start : start + step]


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Several matrices of the same rows as one wide one, each with a scale.

    Attributes:
        parts: The matrices, each with the same n.
        scales: What each is multiplied by.
    """

    parts: Sequence[Rows]
    scales: Sequence[float]

    @property
    def n(self) -> int:
        """How many rows there are."""
        return self.parts[0].n

    @property
    def widths(self) -> list[int]:
        """How wide each part is."""
        return [part.d for part in self.parts]

    @property
    def d(self) -> int:
        """How wide all parts are together."""
        return sum(self.widths)

    def rows(self, indices: Int64[Tensor, " k"]) -> Float[Tensor, "k d"]:
        """Rows in float64, (k, d)."""
        pieces = [part.rows(indices).double() * scale for part, scale in zip(self.parts, self.scales, strict=True)]
        return torch.cat(pieces, dim=1)

    def products(self, directions: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
        """Inner products of all rows with float64 `directions`: one walk, summed per part in the part's precision."""
        out: Tensor | None = None
        for part, scale, piece in zip(self.parts, self.scales, directions.split(self.widths, dim=1), strict=True):
            for start, chunk in part.chunks():
                work = precision(chunk.dtype)
                if out is None:
                    out = torch.zeros(self.n, len(directions), dtype=torch.float64, device=chunk.device)
                found = chunk.to(work) @ (scale * piece).to(work).T.to(chunk.device)
                out[start : start + len(chunk)] += found
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


def precision(dtype: torch.dtype) -> torch.dtype:
    """The type to sum in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
