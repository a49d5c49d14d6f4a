"""Figures by which any two subsets can be compared, whatever chose them."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

CHUNK = 8_192  # rows whose similarities to the chosen ones exist at a time


def captured_share(
    features: Float[Tensor, "n d"], queries: Float[Tensor, "m d"] | None, indices: Int64[Tensor, " k"], noise: float
) -> float:
    """Share of the queries' energy that the rows hold, 1 − tr(Q Σ_S Qᵀ) / tr(Q Qᵀ): the projection objective of `gip`.

    Σ_S = (I + X_Sᵀ X_S / σ²)⁻¹ with σ² = `noise` · mean ‖xᵢ‖², in float64; the pool itself where `queries` is None.
    Time O(k d² + d³).
    """
    sigma2 = noise * float(torch.linalg.vector_norm(features, dim=1, dtype=torch.float64).square().mean())
    asked = gram(features if queries is None else queries)
    chosen = features[indices.to(features.device)].double()
    known = chosen.T @ chosen / sigma2
    known.diagonal().add_(1.0)
    left = torch.linalg.solve(known, asked).trace()
    return 1.0 - float(left / asked.trace())


def gram(rows: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    """XᵀX in float64, in chunks."""
    total = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
    for chunk in rows.split(CHUNK):
        total += chunk.double().T @ chunk.double()
    return total


def vendi(rows: Float[Tensor, "k d"]) -> float:
    """Effective number of distinct rows: exp of the entropy of the eigenvalues of their mean cosine matrix.

    Friedman & Dieng, 2023 ([Vendi score](https://huggingface.co/papers/2210.02410)); 1 for copies of one row, k for
    orthogonal rows. Time O(k d² + d³).
    """
    unit = unit_rows(rows.double())
    values = torch.linalg.eigvalsh(unit.T @ unit / max(len(unit), 1))
    values = values[values > 1e-12]
    return math.exp(-float((values * values.log()).sum()))


def coverage(rows: Float[Tensor, "n d"], chosen: Float[Tensor, "k d"]) -> float:
    """Mean over the rows of the largest cosine to a chosen row. Time O(n k d), memory O(k) beside the inputs."""
    anchors = unit_rows(chosen.float()).T
    best = [(unit_rows(chunk.float()) @ anchors).amax(dim=1).double() for chunk in rows.split(CHUNK)]
    return float(torch.cat(best).mean())


def near_copies(
    rows: Float[Tensor, "n d"], others: Float[Tensor, "m d"], above: float
) -> tuple[Int64[Tensor, " c"], Int64[Tensor, " c"], Float[Tensor, " c"]]:
    """Rows whose largest cosine to one of `others` is at least `above`: (row, that other, cosine), in row order.

    Time O(n m d), memory O(m) beside the inputs.
    """
    anchors = unit_rows(others.float()).T
    best = [(unit_rows(chunk.float()) @ anchors).max(dim=1) for chunk in rows.split(CHUNK)]
    cosine = torch.cat([found.values for found in best]).cpu()
    other = torch.cat([found.indices for found in best]).cpu()
    found = torch.nonzero(cosine >= above).flatten()
    return found, other[found], cosine[found]


def unit_rows(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows of length one; zero rows stay zero."""
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64).to(rows.dtype)
    return rows / lengths.clamp(min=torch.finfo(rows.dtype).tiny)
