"""Figures by which any two subsets can be compared, whatever chose them."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.matrix import InMemoryMatrix, gram, unit_rows
from hf_gip.core.spice import conflict_with_chosen

CHUNK_ROWS = 8_192  # rows whose similarities to the chosen ones exist at a time


def captured_share(
    features: Float[Tensor, "n d"], queries: Float[Tensor, "m d"] | None, indices: Int64[Tensor, " k"], noise: float
) -> float:
    """Share of the queries' energy that the rows hold, 1 − tr(Q Σ_S Qᵀ) / tr(Q Qᵀ): the projection objective of `gip`.

    Σ_S = (I + X_Sᵀ X_S / σ²)⁻¹ with σ² = `noise` · mean ‖xᵢ‖², in float64; the pool itself where `queries` is None.
    Time O(k d² + d³).
    """
    sigma2 = noise * float(torch.linalg.vector_norm(features, dim=1, dtype=torch.float64).square().mean())
    query_gram = gram(InMemoryMatrix(features if queries is None else queries), torch.float64)
    chosen = features[indices.to(features.device)].double()
    precision = chosen.T @ chosen / sigma2
    precision.diagonal().add_(1.0)
    unexplained = torch.linalg.solve(precision, query_gram).trace()
    return 1.0 - float(unexplained / query_gram.trace())


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
    return float(_nearest(rows, chosen)[0].double().mean())


def find_copies(
    rows: Float[Tensor, "n d"], references: Float[Tensor, "m d"], min_cosine: float
) -> tuple[Int64[Tensor, " c"], Int64[Tensor, " c"], Float[Tensor, " c"]]:
    """Rows whose largest cosine to a reference is at least `min_cosine`: (row, reference, cosine), in row order.

    Time O(n m d), memory O(m) beside the inputs.
    """
    cosine, reference = (each.cpu() for each in _nearest(rows, references))
    copies = torch.nonzero(cosine >= min_cosine).flatten()
    return copies, reference[copies], cosine[copies]


def _nearest(
    rows: Float[Tensor, "n d"], references: Float[Tensor, "m d"]
) -> tuple[Float[Tensor, " n"], Int64[Tensor, " n"]]:
    """Each row's largest cosine to a reference, and which that is."""
    anchors = unit_rows(references.float()).T
    nearest = [(unit_rows(chunk.float()) @ anchors).max(dim=1) for chunk in rows.split(CHUNK_ROWS)]
    return torch.cat([each.values for each in nearest]), torch.cat([each.indices for each in nearest])


@dataclass(frozen=True, slots=True)
class SetQuality:
    """Figures of one set of gradients.

    Attributes:
        log_det: log det(I + αF_S) with the full F_S, in nats.
        conflict: Sum over the rows, in their order, of max(0, −cos(g, mean of the earlier ones)).
    """

    log_det: float
    conflict: float


def set_quality(gradients: Float[Tensor, "k d"], alpha: float) -> SetQuality:
    """Information and conflict of `gradients` in their order; O(k d min(k, d)), memory O(k d + min(k, d)²)."""
    rows = gradients.double()
    earlier = rows.cumsum(dim=0) - rows
    norms, totals = torch.linalg.vector_norm(rows, dim=1), torch.linalg.vector_norm(earlier, dim=1)
    counts = torch.arange(1, len(rows), device=rows.device)
    conflict = conflict_with_chosen((rows * earlier).sum(dim=1)[1:], norms[1:], totals[1:], counts).sum()
    small = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    eye = torch.eye(len(small), dtype=torch.float64, device=small.device)
    return SetQuality(float(torch.logdet(eye + alpha * small)), float(conflict))


def random_sets(n: int, k: int, count: int, seed: int) -> list[Int64[Tensor, " k"]]:
    """`count` random sets of `k` of `n` rows, the same on every device."""
    return [torch.randperm(n, generator=torch.Generator().manual_seed(seed + draw))[:k] for draw in range(count)]


def curvature(gradients: Float[Tensor, "n d"], alpha: float) -> float:
    """The curvature c = max |ε_x(D∖x)| / log(1 + α‖x‖²) over all rows x: what the others explain of a row's worth.

    With hₓ = αxᵀ(I + αF_D)⁻¹x a row still brings −log(1 − hₓ) beside all the others, so c needs one factorization,
    O(n d min(n, d)). Greedy without a penalty reaches at least (1 − e⁻ᶜ)/c of the best log-determinant
    ([SPICE](https://huggingface.co/papers/2601.23155), section 3).
    """
    rows = gradients.double()
    rows = rows[torch.linalg.vector_norm(rows, dim=1) > 0]
    if not len(rows):
        return 0.0
    alone = torch.log1p(alpha * rows.square().sum(dim=1))
    if rows.shape[0] <= rows.shape[1]:
        gram = torch.eye(len(rows), dtype=torch.float64, device=rows.device) + alpha * rows @ rows.T
        unexplained = torch.cholesky_inverse(torch.linalg.cholesky(gram)).diagonal()  # 1 − h
    else:
        fisher = torch.eye(rows.shape[1], dtype=torch.float64, device=rows.device) + alpha * rows.T @ rows
        solved = torch.linalg.solve_triangular(torch.linalg.cholesky(fisher), rows.T, upper=False)
        unexplained = 1 - alpha * solved.square().sum(dim=0)
    beside = -torch.log(unexplained.clamp(1e-300, 1.0))
    return min(1.0, max(0.0, float((1 - beside / alone).max())))


def log_det_guarantee(gradients: Float[Tensor, "n d"], indices: Int64[Tensor, " k"], alpha: float) -> float:
    """U / (U + the k largest open gains): the share of the best log-determinant of k rows that these reach at least.

    U = log det(I + αF_S), and the open gain of a row is what it would add after S. Holds for any rows, however chosen:
    the log-determinant is monotone and submodular, so that the best k rows add no more to S than their open gains.
    O(n d min(k, d)), float64.
    """
    rows = gradients.detach().double()
    chosen = rows[indices.to(rows.device)]
    basis = torch.linalg.svd(chosen, full_matrices=False)
    shrink = basis.S.square() / (basis.S.square() + 1 / alpha)  # (I + αF_S)⁻¹ = I − V diag(shrink) Vᵀ
    reached = float(torch.log1p(alpha * basis.S.square()).sum())
    explained = ((rows @ basis.Vh.T).square() * shrink).sum(dim=1)
    open_gains = torch.log1p(alpha * (rows.square().sum(dim=1) - explained).clamp(min=0))
    open_gains[indices.to(rows.device)] = 0.0
    bound = reached + float(open_gains.topk(min(len(indices), len(rows))).values.sum())
    return reached / bound if bound else 1.0


def greedy_guarantee(c: float) -> float:
    """(1 − e⁻ᶜ)/c, the share of the best value that greedy without a penalty reaches at least; 1 without overlap."""
    return -math.expm1(-c) / c if c > 0 else 1.0
