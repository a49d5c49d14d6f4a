"""Figures by which any two subsets can be compared, whatever chose them."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.matrix import InMemoryMatrix, MatrixSource, gram, iter_chunks, unit_rows

CHUNK_ROWS = 8_192  # rows whose similarities to the chosen ones exist at a time
TINY = 1e-8  # keeps the cosine defined, as in the SPICE paper


@torch.no_grad()
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


@torch.no_grad()
def vendi(rows: Float[Tensor, "k d"]) -> float:
    """Effective number of distinct rows: exp of the entropy of the eigenvalues of their mean cosine matrix.

    Friedman & Dieng, 2023 ([Vendi score](https://huggingface.co/papers/2210.02410)); 1 for copies of one row, k for
    orthogonal rows. Time O(k d² + d³).
    """
    unit = unit_rows(rows.double())
    values = torch.linalg.eigvalsh(unit.T @ unit / max(len(unit), 1))
    values = values[values > 1e-12]
    return math.exp(-float((values * values.log()).sum()))


@torch.no_grad()
def coverage(rows: Float[Tensor, "n d"], chosen: Float[Tensor, "k d"]) -> float:
    """Mean over the rows of the largest cosine to a chosen row. Time O(n k d), memory O(k) beside the inputs."""
    return float(_nearest(InMemoryMatrix(rows), chosen)[0].double().mean())


@torch.no_grad()
def find_copies(
    rows: Float[Tensor, "n d"] | MatrixSource, references: Float[Tensor, "m d"], min_cosine: float
) -> tuple[Int64[Tensor, " c"], Int64[Tensor, " c"], Float[Tensor, " c"]]:
    """Rows whose largest cosine to a reference is at least `min_cosine`: (row, reference, cosine), in row order.

    Time O(n m d), memory O(m) beside the inputs.
    """
    source = InMemoryMatrix(rows) if isinstance(rows, Tensor) else rows
    cosine, reference = (each.cpu() for each in _nearest(source, references))
    copies = torch.nonzero(cosine >= min_cosine).flatten()
    return copies, reference[copies], cosine[copies]


def _nearest(rows: MatrixSource, references: Float[Tensor, "m d"]) -> tuple[Float[Tensor, " n"], Int64[Tensor, " n"]]:
    """Each row's largest cosine to a reference, and which that is."""
    anchors = unit_rows(references.float()).T
    cosine, reference = anchors.new_empty(rows.n), anchors.new_empty(rows.n, dtype=torch.int64)
    for positions, chunk in iter_chunks(rows, CHUNK_ROWS):  # a list of results would pin each chunk's memory
        cosine[positions], reference[positions] = (unit_rows(chunk.float()) @ anchors).max(dim=1)
    return cosine, reference


def conflict_with_chosen(
    alignment: Float[Tensor, "*m"], norm: Float[Tensor, "*m"], total_norm: Tensor, count: int | Int64[Tensor, "*m"]
) -> Float[Tensor, "*m"]:
    """max(0, −cos(g, ḡ_S)), from alignment = g·Σ_S g and |S| = `count`; zero while nothing is chosen."""
    return (-alignment / (norm * total_norm + TINY * count).clamp_min(1e-300)).clamp_min_(0)


@dataclass(frozen=True, slots=True)
class SetQuality:
    """Figures of one set of gradients.

    Attributes:
        log_det: log det(I + αF_S) with the full F_S, in nats.
        conflict: Sum over the rows, in their order, of max(0, −cos(g, mean of the earlier ones)).
    """

    log_det: float
    conflict: float


@torch.no_grad()
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


@torch.no_grad()
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


@dataclass(frozen=True, slots=True)
class LogDetGuarantee:
    """What holds for the log-determinant of a set of rows, however they were chosen.

    Attributes:
        share: Of the best log-determinant of as many rows, the share that these reach at least.
        fisher_norm: α‖F_S‖, the largest eigenvalue of αF_S.
    """

    share: float
    fisher_norm: float


@torch.no_grad()
def log_det_guarantee(
    gradients: Float[Tensor, "n d"],
    indices: Int64[Tensor, " k"],
    alpha: Float[Tensor, " w"],
    window: int | None = None,
) -> LogDetGuarantee:
    """U / (U + the k largest open gains), with U = log det(I + αF_S).

    The open gain of a row is what it would add after S, log(1 + α gᵀ(I + αF_S)⁻¹g). The log-determinant is monotone
    and submodular, so that the best k rows add no more to S than the k largest open gains. In windows of consecutive
    rows each window has an S, a k and an α of its own, and both sums run over the windows. O(n d min(k, d)), float64.
    """
    size, picks = window or len(gradients), indices.to(gradients.device)
    reached = bound = norm = 0.0
    for start, window_alpha in zip(range(0, len(gradients), size), alpha.tolist(), strict=True):
        inside = picks[(picks >= start) & (picks < start + size)] - start
        if len(inside):
            log_det, open_gains, fisher_norm = _log_det_and_open_gains(
                gradients[start : start + size].detach(), inside, window_alpha
            )
            reached, bound, norm = reached + log_det, bound + log_det + open_gains, max(norm, fisher_norm)
    return LogDetGuarantee(reached / bound if bound else 1.0, norm)


def _log_det_and_open_gains(
    gradients: Float[Tensor, "n d"], indices: Int64[Tensor, " k"], alpha: float
) -> tuple[float, float, float]:
    """U, the sum of the k largest open gains, and α‖F_S‖."""
    k, d = len(indices), gradients.shape[1]
    chosen = gradients[indices].double()
    values, vectors = torch.linalg.eigh(alpha * (chosen @ chosen.T if k <= d else chosen.T @ chosen))
    values = values.clamp(min=0)
    if k <= d:  # (I + αF_S)⁻¹ = I − BᵀB (Woodbury)
        B = (alpha / (1 + values)).sqrt()[:, None] * (vectors.T @ chosen)
    else:  # (I + αF_S)⁻¹ = BᵀB
        B = (1 + values).rsqrt()[:, None] * vectors.T
    energy = torch.linalg.vector_norm(gradients, dim=1, dtype=torch.float64).square_()
    energy[indices] = 0.0
    largest = energy.new_zeros(k)
    for rows in energy.argsort(descending=True).split(CHUNK_ROWS):
        if float(torch.log1p(alpha * energy[rows[0]])) <= float(largest[-1]):
            break  # no row adds more than it would alone
        products = (gradients[rows].double() @ B.T).square_().sum(dim=1)
        unexplained = (energy[rows] - products).clamp_(min=0) if k <= d else products
        open_gains = torch.log1p(alpha * unexplained).masked_fill_(energy[rows] == 0, 0.0)
        largest = torch.cat([largest, open_gains]).topk(k).values
    return float(torch.log1p(values).sum()), float(largest.sum()), float(values[-1])


def curvature_factor(c: float) -> float:
    """(1 − e⁻ᶜ)/c, the share of the best value that greedy without a penalty reaches at least; 1 without overlap."""
    return -math.expm1(-c) / c if c > 0 else 1.0
