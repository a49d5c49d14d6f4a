"""A GIP problem in its own units: rows of mean energy one, queries of mean energy one and compressed to their rank."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hf_gip.core.matrix import MatrixSource, gram, iter_chunks, working_dtype
from hf_gip.core.validation import check_finite, check_matrix
from hf_gip.distributed import RowPartition, check_on_all, partition_rows

CHUNK_ROWS = 8192


@dataclass(frozen=True, slots=True)
class NormalizedProblem:
    """Rows of mean energy one (before precision), queries of mean energy one."""

    scale: Float[Tensor, " n"]  # wᵢ / √mean‖x‖²: row i enters as scale[i] · features[i]
    queries: Float[Tensor, "d r"]  # columns, orthogonal, float64
    row_energy: float  # mean ‖xᵢ‖²
    query_energy: float  # mean ‖qⱼ‖²


def normalize_problem(
    features: MatrixSource,
    queries: Float[Tensor, "m d"] | None,
    precision: Float[Tensor, " n"] | None,
    partition: RowPartition | None = None,
) -> NormalizedProblem:
    """Units and compressed queries: one walk over the features, two without queries; the same on all ranks.

    Raises:
        ValueError: If a row is not finite, or all rows or all queries are zero.
    """
    dtype = working_dtype(features.dtype)
    partition = partition or partition_rows(features.n, None)
    row_energy, device = mean_row_energy(features, partition)
    if queries is None:
        query_energy = row_energy
        columns = _pool_queries(features, row_energy, dtype, partition)
    else:
        check_matrix("queries", queries, features.d)
        queries = queries.detach()
        query_energy = float(_row_energies("queries", queries, 0).mean())
        if query_energy == 0:
            raise ValueError(_all_zero("queries", len(queries)))
        columns = _compress(queries.double() / math.sqrt(query_energy)).to(device)
    scale = torch.ones(features.n, dtype=torch.float64, device=device)
    if precision is not None:
        scale = precision.detach().double().to(device)
    return NormalizedProblem((scale / math.sqrt(row_energy)).to(dtype), columns, row_energy, query_energy)


def mean_row_energy(features: MatrixSource, partition: RowPartition | None = None) -> tuple[float, torch.device]:
    """Mean ‖xᵢ‖² in float64, of the rows of all ranks, and the device of the rows.

    Raises:
        ValueError: If a row is not finite, or all are zero.
    """
    partition = partition or partition_rows(features.n, None)
    device = torch.device("cpu")

    def total_energy() -> float:
        nonlocal device
        total = 0.0
        for positions, rows in iter_chunks(features, CHUNK_ROWS):
            total += float(_row_energies("features", rows, positions.start).sum())
            device = rows.device
        return total

    local = check_on_all(total_energy, partition.group)
    total = float(partition.all_reduce_sum(torch.tensor([local], dtype=torch.float64, device=device)))
    if total == 0:
        raise ValueError(_all_zero("features", partition.n))
    return total / partition.n, device


def _row_energies(name: str, matrix: Float[Tensor, "n d"], first_row: int) -> Float[Tensor, " n"]:
    energies = torch.linalg.vector_norm(matrix, dim=1, dtype=torch.float64).square()
    check_finite(name, energies.isfinite(), first_row)
    return energies


def _all_zero(name: str, n: int) -> str:
    return f"`{name}` must hold at least one row that is not zero, got {n} zero row(s)."


def _pool_queries(
    features: MatrixSource, energy: float, dtype: torch.dtype, partition: RowPartition
) -> Float[Tensor, "d r"]:
    """The features as queries of themselves."""
    if partition.group is None and features.n < features.d:
        return _compress(features.rows(torch.arange(features.n)).to(dtype) / math.sqrt(energy))
    unit = 2.0 ** round(math.log2(energy) / 2)
    total = partition.all_reduce_sum(gram(features, dtype, unit=unit))
    return _gram_columns(total / (energy / unit / unit), dtype)


def _compress(queries: Float[Tensor, "m d"]) -> Float[Tensor, "d r"]:
    """Orthogonal columns with the same Gram matrix on the feature side, Q'Q'ᵀ = QᵀQ; r = rank."""
    m, d = queries.shape
    if m >= d:
        return _gram_columns((queries.T @ queries).double(), queries.dtype)
    energies, rotation = torch.linalg.eigh((queries @ queries.T).double())
    return (queries.T.double() @ rotation)[:, _is_nonzero(energies, queries.dtype)]


def _gram_columns(gram: Float[Tensor, "d d"], dtype: torch.dtype) -> Float[Tensor, "d r"]:
    energies, rotation = torch.linalg.eigh(gram)
    return (rotation * energies.clamp(min=0).sqrt())[:, _is_nonzero(energies, dtype)]


def _is_nonzero(energies: Float[Tensor, " d"], dtype: torch.dtype) -> Tensor:
    return energies > energies[-1] * (1e-13 if dtype == torch.float64 else 1e-8)
