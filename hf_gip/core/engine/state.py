"""What each objective keeps per row, and how a block of picks changes it.

Each keeps two numbers a row, a numerator and a denominator whose ratio ranks the rows, and changes them by products of
two numbers a pick and row, a = X b and e = X c:

- projection: numerator ‖Cᵢ‖² −= 2·a·e, denominator Dᵢ + ridge −= a². C = X Σ_S Q; b = Σ_S xⱼ / √(Dⱼ + ridge) and
  c = (Q_S − ½ b βᵀ) β with Q_S = Σ_S Q and β = Q_Sᵀ xⱼ / √(Dⱼ + ridge);
- information: numerator vᵢ − uᵢ −= a² − e², denominator uᵢ + ridge −= e², with b and c the columns of the posteriors
  without and with the queries.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.engine.linalg import Posterior, block_cholesky, half_diag_triu, matmul_split, split_half
from hf_gip.core.matrix import MatrixSource, iter_chunks

CHUNK_ROWS = 8192
FEW = 3  # queries are few when their rank is below d / FEW: then X Σ_S Q is cheaper stored than computed anew
CARRIED_RIDGE = 1e-2  # ridge from which ‖Cᵢ‖² may be carried without C

Kernel = tuple[Tensor, Callable[[Tensor], Tensor]]  # a right side R and an operator f: the kernel f(R) Rᵀ


@dataclass(frozen=True, slots=True)
class RowState:
    """The state of some rows."""

    scale: Float[Tensor, " p"]
    C: Float[Tensor, "p r"]  # empty where it is not stored
    numerator: Float[Tensor, " p"]
    denominator: Float[Tensor, " p"]
    min_denominator: Float[Tensor, " p"] | None

    def __getitem__(self, index: slice | Int64[Tensor, " c"]) -> "RowState":
        """The state of some of them."""
        minimum = None if self.min_denominator is None else self.min_denominator[index]
        return RowState(self.scale[index], self.C[index], self.numerator[index], self.denominator[index], minimum)


@dataclass(frozen=True, slots=True)
class BlockOperands:
    """The right sides of a block's products, in the types they are computed in."""

    a_columns: Float[Tensor, "d w"]
    e_columns: Float[Tensor, "d v"]  # empty where e follows from C
    beta: Float[Tensor, "r b"]
    half_beta: Float[Tensor, "b b"]  # strict upper triangle of β βᵀ and half its diagonal

    def head(self, count: int) -> "BlockOperands":
        """Those of the first `count` picks, where each is in one part."""
        return BlockOperands(
            self.a_columns[:, :count],
            self.e_columns[:, :count],
            self.beta[:, :count],
            self.half_beta[:count, :count],
        )


@dataclass(frozen=True, slots=True)
class DraftBlock:
    """What a block of drafted picks would do, in float64: pick t as if all before it were accepted."""

    a_columns: Float[Tensor, "b d"]  # b of each pick
    e_columns: Float[Tensor, "c d"]  # c of each pick; empty where e follows from C
    beta: Float[Tensor, "b r"]  # empty for the information
    gains: Float[Tensor, " b"]  # rise of the objective
    num_valid: Int64[Tensor, ""]  # how many of them rounding has spared

    def operands(self, rows_dtype: torch.dtype, dtype: torch.dtype) -> BlockOperands:
        """What rows of a type are multiplied by."""
        return BlockOperands(
            split_half(self.a_columns, rows_dtype),
            split_half(self.e_columns, rows_dtype),
            self.beta.T.to(dtype),
            half_diag_triu(self.beta).to(dtype),
        )


@dataclass(slots=True)
class DraftState:
    """The shortlist while picks are drafted from it, in arrays as `as_array` makes them."""

    K: Any  # p × p; K[j] is a row of it
    G: Any
    numerator: Any  # p
    denominator: Any
    a: Any  # b × p
    e: Any


class ProjectionState:
    """tr(Qᵀ Q) − tr(Qᵀ Σ_S Q): row i adds ‖Cᵢ‖² / (Dᵢ + ridge)."""

    def __init__(
        self,
        source: MatrixSource,
        scale: Float[Tensor, " n"],
        queries: Float[Tensor, "d r"] | None,
        k: int,
        ridge: float,
        correlation: Float[Tensor, "n r"] | None = None,
    ) -> None:
        self.source, self.scale, self.ridge = source, scale, ridge
        dtype, d = scale.dtype, source.d
        empty = torch.zeros(0, d, dtype=torch.float64, device=scale.device)
        self.posterior = Posterior(empty, k, orthonormal=ridge == 0)
        self.has_queries, self.stores_C = queries is not None, correlation is not None
        self.residual = torch.empty(d, 0, dtype=torch.float64) if queries is None else queries.double().clone()
        self.C = scale.new_empty(source.n, 0) if correlation is None else correlation.to(dtype, copy=True)
        if not self.stores_C and (FEW * self.residual.shape[1] <= d or ridge < CARRIED_RIDGE):
            self.C, self.stores_C = scaled_product(source, scale, self.residual), True
        energy = row_energies(source, scale, None)
        self.min_denominator = (1e-12 if dtype == torch.float64 else 1e-5) * energy if ridge == 0 else None
        total = float(self.residual.square().sum())
        self.min_gain = torch.finfo(dtype).eps * total if ridge == 0 else -1.0
        self.denominator = energy + ridge
        self.numerator = self.C.square().sum(1) if self.stores_C else row_energies(source, scale, self.residual)
        self.blocks_carried, self.highest_gain = 0, 0.0

    def row_state(self) -> RowState:
        """The state of all rows."""
        return RowState(self.scale, self.C, self.numerator, self.denominator, self.min_denominator)

    def kernels(self, rows: Float[Tensor, "p d"], state: RowState) -> tuple[Kernel, Kernel]:
        """X Σ_S Xᵀ and C Cᵀ of scaled rows, to draft by."""
        C = state.C if self.stores_C else rows @ self.residual.to(rows.dtype)
        return (rows, self.posterior.operator(rows.dtype)), (C, lambda right: right)

    def draft_block(self, rows: Float[Tensor, "b d"], state: RowState) -> DraftBlock:
        """The columns of the drafted picks, from their scaled rows in float64."""
        triangle, columns, num_valid = block_cholesky(rows, self.posterior.apply(rows), self.ridge)
        if self.ridge == 0 and self.has_queries:
            beta = columns @ self.residual  # a pick in the span of others has no row in L⁻¹
        else:
            C = rows @ self.residual if self.has_queries else state.C.double()
            beta = torch.linalg.solve_triangular(triangle, C, upper=False)
        e_columns = columns[:0] if self.stores_C else beta @ self.residual.T - half_diag_triu(beta).T @ columns
        return DraftBlock(columns, e_columns, beta, beta.square().sum(1), num_valid)

    def block_products(
        self, rows: Float[Tensor, "c d"], state: RowState, operands: BlockOperands, out: Float[Tensor, "2 c b"]
    ) -> None:
        """Products a and e of rows (c × d)."""
        matmul_split(rows, operands.a_columns, out[0]).mul_(state.scale[:, None])
        if self.stores_C:
            torch.mm(state.C, operands.beta, out=out[1])
            out[1].addmm_(out[0], operands.half_beta, alpha=-1)
        else:
            matmul_split(rows, operands.e_columns, out[1]).mul_(state.scale[:, None])

    def deltas(self, a: Any, e: Any) -> tuple[Any, Any]:
        """By how much each pick lowers numerator and denominator."""
        return (a + a) * e, a * a

    def upper_deltas(
        self, a: Float[Tensor, "c b"], e: Float[Tensor, "c b"], gains: Float[Tensor, " b"], out: Float[Tensor, "c b"]
    ) -> None:
        """By how much each pick raises numerator − gain · denominator."""
        torch.mul(a, gains, out=out).sub_(e, alpha=2).mul_(a)

    def draft_step(self, draft: DraftState, j: Any, gain: Any, t: int) -> tuple[Any, Any]:
        """Products a and e of drafting j: row j of each kernel, less what the drafts before took from it."""
        A, E = draft.a[:t], draft.e[:t]
        a_j, e_j = A[:, j].T, E[:, j].T
        root = draft.denominator[j] ** -0.5
        a = (draft.K[j] - a_j @ A) * root
        return a, (draft.G[j] - a_j @ E - e_j @ A) * root - a * (gain[j].clip(min=0) / 2)

    def commit(self, block: DraftBlock, count: int, products: list[tuple[slice, Tensor]]) -> None:
        """Take the first `count` picks of the block for good."""
        beta = block.beta[:count].to(self.scale.dtype)
        for positions, chunk in products:
            a, e = chunk[:, :, :count]
            self.denominator[positions] -= torch.linalg.vector_norm(a, dim=1).square_()
            if self.stores_C:
                C = self.C[positions].addmm_(a, beta, alpha=-1)
                self.numerator[positions] = torch.linalg.vector_norm(C, dim=1).square_()
            else:
                self.numerator[positions] -= (a * e).sum(1).mul_(2)
        self.denominator.clamp_(min=self.ridge)
        self.posterior.update(block.a_columns[:count])
        if self.has_queries:
            self.residual -= block.a_columns[:count].T @ block.beta[:count]

    def refresh(self, first_gain: float) -> None:
        """Without C, compute the numerator anew from Q_S before the error of its differences counts."""
        self.blocks_carried, self.highest_gain = self.blocks_carried + 1, max(self.highest_gain, first_gain)
        if not self.stores_C and (self.blocks_carried >= 32 or first_gain < 0.2 * self.highest_gain):
            self.numerator = row_energies(self.source, self.scale, self.residual)
            self.blocks_carried, self.highest_gain = 0, first_gain


class InformationState:
    """I(z_S; y): row i adds ½ log((vᵢ + ridge) / (uᵢ + ridge)), v without and u with the queries known."""

    min_denominator: None = None
    min_gain = -torch.inf

    def __init__(
        self, source: MatrixSource, scale: Float[Tensor, " n"], whitened: Float[Tensor, "d r"], k: int, ridge: float
    ) -> None:
        self.scale, self.ridge = scale, ridge
        self.without_queries = Posterior(whitened.new_zeros(0, source.d), k, orthonormal=False)
        self.with_queries = Posterior(whitened.T.contiguous(), k, orthonormal=False)
        self.numerator = row_energies(source, scale, whitened)
        self.denominator = (row_energies(source, scale, None) - self.numerator).clamp_(min=0) + ridge

    def row_state(self) -> RowState:
        """The state of all rows."""
        return RowState(self.scale, self.scale.new_empty(len(self.scale), 0), self.numerator, self.denominator, None)

    def kernels(self, rows: Float[Tensor, "p d"], state: RowState) -> tuple[Kernel, Kernel]:
        """X Σ Xᵀ without and with the queries known, of scaled rows, to draft by."""
        return (rows, self.without_queries.operator(rows.dtype)), (rows, self.with_queries.operator(rows.dtype))

    def draft_block(self, rows: Float[Tensor, "b d"], state: RowState) -> DraftBlock:
        """The columns of the drafted picks, from their scaled rows in float64."""
        without, with_ = self.without_queries.apply(rows), self.with_queries.apply(rows)
        upper, a_columns, num_valid = block_cholesky(rows, without, self.ridge)
        lower, e_columns, num_valid_with = block_cholesky(rows, with_, self.ridge)
        difference = ((without - with_) * rows).sum(1)  # v − u, which under much noise is lost in the diagonals
        difference += lower.tril(-1).square().sum(1) - upper.tril(-1).square().sum(1)
        gains = 0.5 * (difference.clamp_(min=0) / lower.diagonal().square()).log1p()
        return DraftBlock(a_columns, e_columns, a_columns[:, :0], gains, torch.minimum(num_valid, num_valid_with))

    def block_products(
        self, rows: Float[Tensor, "c d"], state: RowState, operands: BlockOperands, out: Float[Tensor, "2 c b"]
    ) -> None:
        """Products a and e of rows (c × d)."""
        matmul_split(rows, operands.a_columns, out[0]).mul_(state.scale[:, None])
        matmul_split(rows, operands.e_columns, out[1]).mul_(state.scale[:, None])

    def deltas(self, a: Any, e: Any) -> tuple[Any, Any]:
        """By how much each pick lowers numerator and denominator."""
        return (a - e) * (a + e), e * e

    def upper_deltas(
        self, a: Float[Tensor, "c b"], e: Float[Tensor, "c b"], gains: Float[Tensor, " b"], out: Float[Tensor, "c b"]
    ) -> None:
        """By how much each pick raises numerator − gain · denominator."""
        torch.mul(e, gains + 1, out=out).mul_(e).addcmul_(a, a, value=-1)

    def draft_step(self, draft: DraftState, j: Any, gain: Any, t: int) -> tuple[Any, Any]:
        """Products a and e of drafting j."""
        A, E = draft.a[:t], draft.e[:t]
        lower = draft.denominator[j]
        upper = draft.numerator[j] + lower
        return (draft.K[j] - A[:, j].T @ A) * upper**-0.5, (draft.G[j] - E[:, j].T @ E) * lower**-0.5

    def commit(self, block: DraftBlock, count: int, products: list[tuple[slice, Tensor]]) -> None:
        """Take the first `count` picks of the block for good."""
        for positions, chunk in products:
            numerator, denominator = self.deltas(*chunk[:, :, :count])
            self.numerator[positions] -= numerator.sum(1)
            self.denominator[positions] -= denominator.sum(1)
        self.denominator.clamp_(min=self.ridge)
        self.without_queries.update(block.a_columns[:count])
        self.with_queries.update(block.e_columns[:count])

    def refresh(self, first_gain: float) -> None:
        """Nothing to compute anew."""


ObjectiveState = ProjectionState | InformationState


def row_energies(
    source: MatrixSource, scale: Float[Tensor, " n"], columns: Float[Tensor, "d r"] | None
) -> Float[Tensor, " n"]:
    """‖xᵢ‖², or ‖columnsᵀ xᵢ‖², without the n × r product."""
    out = torch.empty_like(scale)
    columns = None if columns is None else columns.to(scale.dtype)
    for positions, rows in iter_chunks(source, CHUNK_ROWS):
        if columns is None:
            out[positions] = (rows.double().square().sum(1) * scale[positions].double() ** 2).to(scale.dtype)
        else:
            out[positions] = ((rows.to(scale.dtype) @ columns) * scale[positions, None]).square().sum(1)
    return out


def scaled_product(
    source: MatrixSource, scale: Float[Tensor, " n"], columns: Float[Tensor, "d r"]
) -> Float[Tensor, "n r"]:
    """The product X columns, its rows scaled."""
    out = scale.new_empty(source.n, columns.shape[1])
    columns = columns.to(scale.dtype)
    for positions, rows in iter_chunks(source, CHUNK_ROWS):
        torch.mm(rows.to(scale.dtype), columns, out=out[positions])
    return out.mul_(scale[:, None])
