"""How good a set of gradients is, whatever chose it: information, conflict, and greedy's guarantee."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.lazy import conflict_of


@dataclass(frozen=True, slots=True)
class SetQuality:
    """Figures of one set of rows.

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
    before = torch.arange(1, len(rows), device=rows.device)
    conflict = conflict_of((rows * earlier).sum(dim=1)[1:], norms[1:], totals[1:], before).sum()
    small = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    eye = torch.eye(len(small), dtype=torch.float64, device=small.device)
    return SetQuality(float(torch.logdet(eye + alpha * small)), float(conflict))


def random_sets(n: int, k: int, count: int, seed: int) -> list[Int64[Tensor, " k"]]:
    """`count` random sets of `k` of `n` rows, the same on every device."""
    return [torch.randperm(n, generator=torch.Generator().manual_seed(seed + draw))[:k] for draw in range(count)]


def curvature(gradients: Float[Tensor, "n d"], alpha: float) -> float:
    """The curvature c = max |ε_x(D∖x)| / log(1 + α‖x‖²) over all rows x: what the others take of a row's worth.

    With hₓ = αxᵀ(I + αF_D)⁻¹x a row still brings −log(1 − hₓ) beside all the others, so c needs one factorisation,
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
        left = torch.cholesky_inverse(torch.linalg.cholesky(gram)).diagonal()  # 1 − h
    else:
        fisher = torch.eye(rows.shape[1], dtype=torch.float64, device=rows.device) + alpha * rows.T @ rows
        solved = torch.linalg.solve_triangular(torch.linalg.cholesky(fisher), rows.T, upper=False)
        left = 1 - alpha * solved.square().sum(dim=0)
    beside = -torch.log(left.clamp(1e-300, 1.0))
    return min(1.0, max(0.0, float((1 - beside / alone).max())))


def greedy_guarantee(c: float) -> float:
    """(1 − e⁻ᶜ)/c, the share of the best value that greedy reaches at least; 1 where nothing overlaps."""
    return -math.expm1(-c) / c if c > 0 else 1.0
