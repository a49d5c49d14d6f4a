"""The projection: what each row would add to the share of the queries that the picks span."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hf_gip.core.engine.objectives import Held, Kernel, Panel, Sides, Trial, energies, halved
from hf_gip.core.engine.posterior import Posterior, factor
from hf_gip.core.engine.rows import pieces, times
from hf_gip.core.rows import Rows

FEW = 3  # queries are few when their rank is below d / FEW: then X Σ_S Q is cheaper kept than made again
LOUD = 1e-2  # ridge from which ‖Cᵢ‖² may be carried without C


class Projection:
    """tr(Qᵀ Q) − tr(Qᵀ Σ_S Q): row i adds ‖Cᵢ‖² / (Dᵢ + ridge)."""

    def __init__(
        self,
        source: Rows,
        scale: Float[Tensor, " n"],
        queries: Float[Tensor, "d r"] | None,
        k: int,
        ridge: float,
        correlation: Float[Tensor, "n r"] | None = None,
    ) -> None:
        self.source, self.scale, self.ridge = source, scale, ridge
        work, d = scale.dtype, source.d
        empty = torch.zeros(0, d, dtype=torch.float64, device=scale.device)
        self.posterior = Posterior(empty, k, orthonormal=ridge == 0)
        self.told, self.kept = queries is not None, correlation is not None
        self.residual = torch.empty(d, 0, dtype=torch.float64) if queries is None else queries.double().clone()
        self.C = scale.new_empty(source.n, 0) if correlation is None else correlation.to(work, copy=True)
        if not self.kept and (FEW * self.residual.shape[1] <= d or ridge < LOUD):
            self.C, self.kept = fill(source, scale, self.residual), True
        power = energies(source, scale, None)
        self.floor = (1e-12 if work == torch.float64 else 1e-5) * power if ridge == 0 else None
        total = float(self.residual.square().sum())
        self.stop = torch.finfo(work).eps * total if ridge == 0 else -1.0
        self.bottom = power + ridge
        self.top = self.C.square().sum(1) if self.kept else energies(source, scale, self.residual)
        self.since, self.level = 0, 0.0

    def held(self) -> Held:
        """All that is kept per row here."""
        return Held(self.scale, self.C, self.top, self.bottom, self.floor)

    def kernels(self, rows: Float[Tensor, "p d"], held: Held) -> tuple[Kernel, Kernel]:
        """X Σ_S Xᵀ and C Cᵀ of scaled rows, to draft by: each as its right side and what makes the left of it."""
        C = held.C if self.kept else rows @ self.residual.to(rows.dtype)
        return (rows, self.posterior.map(rows.dtype)), (C, lambda side: side)

    def panel(self, rows: Float[Tensor, "b d"], held: Held) -> Panel:
        """The columns of the drafted picks, from their scaled rows in float64."""
        triangle, first, good = factor(rows, self.posterior.of(rows), self.ridge)
        if self.ridge == 0 and self.told:
            beta = first @ self.residual  # a pick in the span of others has no row in L⁻¹
        else:
            C = rows @ self.residual if self.told else held.C.double()
            beta = torch.linalg.solve_triangular(triangle, C, upper=False)
        second = first[:0] if self.kept else beta @ self.residual.T - halved(beta).T @ first
        return Panel(first, second, beta, beta.square().sum(1), good)

    def products(self, rows: Float[Tensor, "c d"], held: Held, sides: Sides, out: Float[Tensor, "2 c b"]) -> None:
        """Products a and e of rows (c × d)."""
        times(rows, sides.first, out[0]).mul_(held.scale[:, None])
        if self.kept:
            torch.mm(held.C, sides.beta, out=out[1])
            out[1].addmm_(out[0], sides.halved, alpha=-1)
        else:
            times(rows, sides.second, out[1]).mul_(held.scale[:, None])

    def moves(self, a: Any, e: Any) -> tuple[Any, Any]:
        """By how much each pick lowers top and bottom."""
        return (a + a) * e, a * a

    def rise(
        self, a: Float[Tensor, "c b"], e: Float[Tensor, "c b"], goal: Float[Tensor, " b"], out: Float[Tensor, "c b"]
    ) -> None:
        """By how much each pick raises top − goal · bottom."""
        torch.mul(a, goal, out=out).sub_(e, alpha=2).mul_(a)

    def step(self, near: Trial, j: Any, gain: Any, t: int) -> tuple[Any, Any]:
        """Products a and e of drafting j: row j of both kernels, less what the drafts before took from them."""
        A, E = near.a[:t], near.e[:t]
        a_j, e_j = A[:, j].T, E[:, j].T
        root = near.bottom[j] ** -0.5
        a = (near.K[j] - a_j @ A) * root
        return a, (near.G[j] - a_j @ E - e_j @ A) * root - a * (gain[j].clip(min=0) / 2)

    def commit(self, panel: Panel, count: int, moved: list[tuple[slice, Tensor]]) -> None:
        """Take the first `count` picks of the panel for good."""
        beta = panel.beta[:count].to(self.scale.dtype)
        for where, products in moved:
            a, e = products[:, :, :count]
            self.bottom[where] -= torch.linalg.vector_norm(a, dim=1).square_()
            if self.kept:
                C = self.C[where].addmm_(a, beta, alpha=-1)
                self.top[where] = torch.linalg.vector_norm(C, dim=1).square_()
            else:
                self.top[where] -= (a * e).sum(1).mul_(2)
        self.bottom.clamp_(min=self.ridge)
        self.posterior.absorb(panel.first[:count])
        if self.told:
            self.residual -= panel.first[:count].T @ panel.beta[:count]

    def refresh(self, best: float) -> None:
        """Without C, make top anew from Q_S before the error of its differences counts."""
        self.since, self.level = self.since + 1, max(self.level, best)
        if not self.kept and (self.since >= 32 or best < 0.2 * self.level):
            self.top = energies(self.source, self.scale, self.residual)
            self.since, self.level = 0, best


def fill(source: Rows, scale: Float[Tensor, " n"], columns: Float[Tensor, "d r"]) -> Float[Tensor, "n r"]:
    """The product X columns, its rows scaled."""
    out = scale.new_empty(source.n, columns.shape[1])
    columns = columns.to(scale.dtype)
    for where, rows in pieces(source, 8192):
        torch.mm(rows.to(scale.dtype), columns, out=out[where])
    return out.mul_(scale[:, None])
