"""The small float64 side of the engine, Σ_S = base − BᵀB, and products that keep half-precision rows exact."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def on_cpu(tensor: Tensor) -> bool:
    """Whether its values can be read at no cost: a GPU would have to be waited for."""
    return tensor.device.type == "cpu"


class Posterior:
    """What the picks leave unknown, as a d × d matrix or, while there are few picks, as their rows B."""

    def __init__(self, basis: Float[Tensor, "r d"], k: int, *, orthonormal: bool) -> None:
        self.used, d = basis.shape
        self.sweeps = 2 if orthonormal else 1  # a second sweep keeps the basis orthogonal to rounding
        self.matrix: Tensor | None = None
        if not orthonormal and d <= 2 * (self.used + k):
            self.matrix = torch.eye(d, dtype=torch.float64, device=basis.device) - basis.T @ basis
        else:
            self.basis = basis.new_zeros(self.used + k, d)
            self.basis[: self.used] = basis

    def apply(self, rows: Float[Tensor, "p d"]) -> Float[Tensor, "p d"]:
        """Rows Σ_S."""
        return self.operator(rows.dtype)(rows)

    def operator(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """Rows → rows Σ_S, in the precision `dtype`."""
        if self.matrix is not None:
            matrix = self.matrix.to(dtype)
            return lambda rows: rows @ matrix
        return partial(project_out, basis=self.basis[: self.used].to(dtype), sweeps=self.sweeps)

    def update(self, columns: Float[Tensor, "b d"]) -> None:
        """Take the columns of accepted picks into B."""
        if self.matrix is not None:
            self.matrix -= columns.T @ columns
        else:
            self.basis[self.used : self.used + len(columns)] = columns
        self.used += len(columns)


def project_out(rows: Float[Tensor, "p d"], basis: Float[Tensor, "t d"], sweeps: int) -> Float[Tensor, "p d"]:
    """Rows less their part along the basis."""
    for _ in range(sweeps):
        rows = rows - (rows @ basis.T) @ basis
    return rows


def block_cholesky(
    rows: Float[Tensor, "b d"], projected: Float[Tensor, "b d"], ridge: float
) -> tuple[Float[Tensor, "g g"], Float[Tensor, "g d"], Int64[Tensor, ""]]:
    """L and B = L⁻¹ X_J Σ_S with L Lᵀ = X_J Σ_S X_Jᵀ + ridge·I: row t of B is what pick t adds after picks < t.

    Without a ridge L and B come from a QR of Σ_S X_Jᵀ: a Cholesky factor would square its condition. Where rounding
    leaves no positive matrix, only the picks before that are valid; how many comes third.

    Args:
        rows: X_J, the drafted rows, scaled.
        projected: X_J Σ_S.
        ridge: The ridge.
    """
    b = torch.tensor(len(rows), device=rows.device)
    if ridge == 0:
        basis, triangle = torch.linalg.qr(projected.T)
        sign = torch.where(triangle.diagonal() < 0, -1.0, 1.0).to(projected.dtype)
        return triangle[:, : len(sign)].T * sign, basis.T * sign[:, None], b.clamp(max=len(sign))
    kernel = projected @ rows.T
    kernel = (kernel + kernel.T) / 2
    kernel.diagonal().clamp_(min=0).add_(ridge)
    triangle, failed = torch.linalg.cholesky_ex(kernel)
    num_valid = torch.where(failed > 0, failed - 1, b)
    if not on_cpu(failed) or int(failed):
        invalid = torch.arange(len(rows), device=rows.device) >= num_valid
        kernel = kernel.masked_fill(invalid[:, None] | invalid, 0.0) + torch.diag(invalid.to(kernel.dtype))
        triangle = torch.linalg.cholesky_ex(kernel)[0]
        projected = projected.masked_fill(invalid[:, None], 0.0)
    return triangle, torch.linalg.solve_triangular(triangle, projected, upper=False), num_valid


def half_diag_triu(beta: Float[Tensor, "b r"]) -> Float[Tensor, "b b"]:
    """Strict upper triangle of β βᵀ and half its diagonal."""
    upper = (beta @ beta.T).triu()
    upper.diagonal().mul_(0.5)
    return upper


def strict_upper_ones(products: Float[Tensor, "... c b"]) -> Float[Tensor, "b b"]:
    """What sums each row of `products` over the picks before each: ones above the diagonal."""
    b = products.shape[-1]
    return products.new_ones(b, b).triu_(1)


def split_half(columns: Float[Tensor, "b d"], dtype: torch.dtype) -> Float[Tensor, "d w"]:
    """The columns as `matmul_split` wants them for rows of a type: three parts of each for half precision, w = 3b.

    A GPU multiplies half-precision rows as they are. The columns, which such a type would spoil, go in three parts
    that together hold all their bits, still in one product.
    """
    if dtype.itemsize > 2:
        return columns.T.to(dtype)
    step = torch.finfo(dtype).eps / 2
    parts, remainder = [], columns.double()
    for _ in range(3):
        parts.append(remainder.to(dtype))
        remainder = (remainder - parts[-1]) / step
    return torch.cat(parts).T


def matmul_split(rows: Float[Tensor, "c d"], columns: Float[Tensor, "d w"], out: Float[Tensor, "c b"]) -> Tensor:
    """The product of rows and `split_half` columns in `out`, as exact as its type."""
    if rows.dtype.itemsize > 2:
        return torch.mm(rows, columns, out=out)
    step = torch.finfo(rows.dtype).eps / 2
    product = torch.mm(rows, columns, out_dtype=torch.float32) if rows.is_cuda else rows.float() @ columns.float()
    high, middle, low = product.view(len(rows), 3, out.shape[1]).unbind(1)
    return torch.add(high, middle, alpha=step, out=out).add_(low, alpha=step * step)
