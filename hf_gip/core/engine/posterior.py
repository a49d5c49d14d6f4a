"""The small float64 side of the engine: Σ_S = base − BᵀB, and the columns that a block of picks adds to B."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.engine.rows import ready


class Posterior:
    """What the picks leave unknown, as a d × d matrix or, while there are few picks, as their rows B."""

    def __init__(self, known: Float[Tensor, "r d"], k: int, *, orthonormal: bool) -> None:
        self.used, d = known.shape
        self.sweeps = 2 if orthonormal else 1  # a second sweep keeps the basis orthogonal to rounding
        self.matrix: Tensor | None = None
        if not orthonormal and d <= 2 * (self.used + k):
            self.matrix = torch.eye(d, dtype=torch.float64, device=known.device) - known.T @ known
        else:
            self.basis = known.new_zeros(self.used + k, d)
            self.basis[: self.used] = known

    def of(self, rows: Float[Tensor, "p d"]) -> Float[Tensor, "p d"]:
        """Rows Σ_S."""
        return self.map(rows.dtype)(rows)

    def map(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """Rows → rows Σ_S, in the precision `dtype`."""
        if self.matrix is not None:
            matrix = self.matrix.to(dtype)
            return lambda rows: rows @ matrix
        basis = self.basis[: self.used].to(dtype)
        return partial(swept, basis=basis, sweeps=self.sweeps)

    def absorb(self, columns: Float[Tensor, "b d"]) -> None:
        """Take the columns of accepted picks into B."""
        if self.matrix is not None:
            self.matrix -= columns.T @ columns
        else:
            self.basis[self.used : self.used + len(columns)] = columns
        self.used += len(columns)


def swept(rows: Float[Tensor, "p d"], basis: Float[Tensor, "t d"], sweeps: int) -> Float[Tensor, "p d"]:
    """Rows less their part along the basis."""
    for _ in range(sweeps):
        rows = rows - (rows @ basis.T) @ basis
    return rows


def factor(
    rows: Float[Tensor, "b d"], left: Float[Tensor, "b d"], ridge: float
) -> tuple[Float[Tensor, "g g"], Float[Tensor, "g d"], Int64[Tensor, ""]]:
    """L and B = L⁻¹ X_J Σ_S with L Lᵀ = X_J Σ_S X_Jᵀ + ridge·I: row t of B is what pick t adds after picks < t.

    Without a ridge L and B come from a QR of Σ_S X_Jᵀ: a Cholesky factor would square its condition. Where rounding
    leaves no positive matrix, only the picks before that are good; how many comes third.
    """
    b = torch.tensor(len(rows), device=rows.device)
    if ridge == 0:
        basis, triangle = torch.linalg.qr(left.T)
        sign = torch.where(triangle.diagonal() < 0, -1.0, 1.0).to(left.dtype)
        return triangle[:, : len(sign)].T * sign, basis.T * sign[:, None], b.clamp(max=len(sign))
    kernel = left @ rows.T
    kernel = (kernel + kernel.T) / 2
    kernel.diagonal().clamp_(min=0).add_(ridge)
    triangle, failed = torch.linalg.cholesky_ex(kernel)
    good = torch.where(failed > 0, failed - 1, b)
    if not ready(failed) or int(failed):
        spoilt = torch.arange(len(rows), device=rows.device) >= good
        kernel = kernel.masked_fill(spoilt[:, None] | spoilt, 0.0) + torch.diag(spoilt.to(kernel.dtype))
        triangle, left = torch.linalg.cholesky_ex(kernel)[0], left.masked_fill(spoilt[:, None], 0.0)
    return triangle, torch.linalg.solve_triangular(triangle, left, upper=False), good
