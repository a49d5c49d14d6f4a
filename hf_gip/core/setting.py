"""Features and queries in their own units, read chunk by chunk."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hf_gip.core.checks import check_matrix
from hf_gip.core.engine.ranks import Ranks, admit, shared
from hf_gip.core.engine.rows import pieces
from hf_gip.core.rows import Rows, precision

PIECE = 8192


@dataclass(frozen=True, slots=True)
class Setting:
    """The problem in its own units: rows of mean energy one (before precision), queries of mean energy one."""

    scale: Float[Tensor, " n"]  # wᵢ / √mean‖x‖²: row i enters as scale[i] · features[i]
    queries: Float[Tensor, "d r"]  # columns, orthogonal, float64
    row_energy: float  # mean ‖xᵢ‖²
    query_energy: float  # mean ‖qⱼ‖²


def prepare(
    features: Rows,
    queries: Float[Tensor, "m d"] | None,
    noise: float,
    weight: Float[Tensor, " n"] | None,
    ranks: Ranks | None = None,
) -> Setting:
    """Units and compressed queries: one walk over the features, two without queries; the same on all `ranks`."""
    work = precision(features.dtype)
    ranks = ranks or shared(features.n, None)
    row_energy, device = row_mean(features, ranks)
    if queries is None:
        query_energy = row_energy
        columns = _own(features, row_energy, work, ranks)
    else:
        check_matrix("queries", queries, features.d)
        query_energy = float(_energies("queries", queries, 0).mean())
        if query_energy == 0:
            _nothing("queries", len(queries))
        columns = _compress(queries.double() / math.sqrt(query_energy)).to(device)
    scale = torch.ones(features.n, dtype=torch.float64, device=device)
    if weight is not None:
        scale = weight.double().to(device)
    return Setting((scale / math.sqrt(row_energy)).to(work), columns, row_energy, query_energy)


def row_mean(features: Rows, ranks: Ranks | None = None) -> tuple[float, torch.device]:
    """Mean ‖xᵢ‖² in float64, of the rows of all `ranks`, and where the rows are."""
    ranks = ranks or shared(features.n, None)
    total, device, problem = 0.0, torch.device("cpu"), None
    try:
        for where, rows in pieces(features, PIECE):
            total += float(_energies("features", rows, where.start).sum())
            device = rows.device
    except ValueError as error:
        problem = str(error)
    admit(problem, ranks.group)  # all ranks end with the one that cannot go on
    total = float(ranks.total(torch.tensor([total], dtype=torch.float64, device=device)))
    if total == 0:
        _nothing("features", ranks.n)
    return total / ranks.n, device


def gram(features: Rows, scale: Float[Tensor, " n"] | None, work: torch.dtype, ranks: Ranks) -> Float[Tensor, "d d"]:
    """XᵀX of the scaled rows of all ranks, summed in float64 over chunks multiplied in the working type."""
    out: Tensor | None = None
    for where, rows in pieces(features, PIECE):
        scaled = rows.to(work) if scale is None else rows.to(work) * scale[where, None].to(rows.device)
        part = (scaled.T @ scaled).double()
        out = part if out is None else out.add_(part)
    return ranks.total(torch.zeros(features.d, features.d, dtype=torch.float64) if out is None else out)


def _energies(name: str, matrix: Float[Tensor, "n d"], first: int) -> Float[Tensor, " n"]:
    energies = torch.linalg.vector_norm(matrix, dim=1, dtype=torch.float64).square()
    if not bool(energies.isfinite().all()):
        bad = energies.isfinite().logical_not().nonzero().flatten()
        raise ValueError(
            f"`{name}` must be finite, got NaN or infinity in {len(bad)} row(s), first in row {first + int(bad[0])}: "
            "drop or recompute them."
        )
    return energies


def _nothing(name: str, n: int) -> None:
    raise ValueError(f"`{name}` must hold at least one row that is not zero, got {n} zero row(s).")


def _own(features: Rows, energy: float, work: torch.dtype, ranks: Ranks) -> Float[Tensor, "d r"]:
    """The features as queries of themselves."""
    if ranks.group is None and features.n < features.d:
        return _compress(features.rows(torch.arange(features.n)).to(work) / math.sqrt(energy))
    unit = 2.0 ** -round(math.log2(energy) / 2)  # squares of 1e20 or of 1e-30 are no float32
    scale = torch.full((features.n,), unit, dtype=work)
    return _columns(gram(features, scale, work, ranks) / (energy * unit * unit), work)


def _compress(queries: Float[Tensor, "m d"]) -> Float[Tensor, "d r"]:
    """Orthogonal columns with the same Gram matrix on the feature side, Q'Q'ᵀ = QᵀQ; r = rank."""
    m, d = queries.shape
    if m >= d:
        return _columns((queries.T @ queries).double(), queries.dtype)
    energies, rotation = torch.linalg.eigh((queries @ queries.T).double())
    return (queries.T.double() @ rotation)[:, _kept(energies, queries.dtype)]


def _columns(gram: Float[Tensor, "d d"], work: torch.dtype) -> Float[Tensor, "d r"]:
    energies, rotation = torch.linalg.eigh(gram)
    return (rotation * energies.clamp(min=0).sqrt())[:, _kept(energies, work)]


def _kept(energies: Float[Tensor, " d"], work: torch.dtype) -> Tensor:
    return energies > energies[-1] * (1e-13 if work == torch.float64 else 1e-8)
