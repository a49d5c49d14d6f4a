"""The information: what each row would tell about the queries, with noise on both."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hf_gip.core.engine.objectives import Held, Kernel, Panel, Sides, Trial, energies
from hf_gip.core.engine.posterior import Posterior, factor
from hf_gip.core.engine.rows import times
from hf_gip.core.rows import Rows


class Information:
    """I(z_S; y): row i adds ½ log((vᵢ + ridge) / (uᵢ + ridge)), v without and u given the queries."""

    floor: None = None
    stop = -torch.inf

    def __init__(
        self, source: Rows, scale: Float[Tensor, " n"], whitened: Float[Tensor, "d r"], k: int, ridge: float
    ) -> None:
        self.scale, self.ridge = scale, ridge
        self.plain = Posterior(whitened.new_zeros(0, source.d), k, orthonormal=False)
        self.given = Posterior(whitened.T.contiguous(), k, orthonormal=False)
        self.top = energies(source, scale, whitened)
        self.bottom = (energies(source, scale, None) - self.top).clamp_(min=0) + ridge

    def held(self) -> Held:
        """All that is kept per row here."""
        return Held(self.scale, self.scale.new_empty(len(self.scale), 0), self.top, self.bottom, None)

    def kernels(self, rows: Float[Tensor, "p d"], held: Held) -> tuple[Kernel, Kernel]:
        """X Σ Xᵀ without and with the queries known, of scaled rows, to draft by."""
        return (rows, self.plain.map(rows.dtype)), (rows, self.given.map(rows.dtype))

    def panel(self, rows: Float[Tensor, "b d"], held: Held) -> Panel:
        """The columns of the drafted picks, from their scaled rows in float64."""
        triangle, first, good = factor(rows, self.plain.of(rows), self.ridge)
        lower, second, better = factor(rows, self.given.of(rows), self.ridge)
        gains = (triangle.diagonal() / lower.diagonal()).log().clamp_(min=0)
        return Panel(first, second, first[:, :0], gains, torch.minimum(good, better))

    def products(self, rows: Float[Tensor, "c d"], held: Held, sides: Sides, out: Float[Tensor, "2 c b"]) -> None:
        """Products a and e of rows (c × d)."""
        for number, columns in enumerate((sides.first, sides.second)):
            times(rows, columns, out[number]).mul_(held.scale[:, None])

    def moves(self, a: Any, e: Any) -> tuple[Any, Any]:
        """By how much each pick lowers top and bottom."""
        return (a - e) * (a + e), e * e

    def rise(
        self, a: Float[Tensor, "c b"], e: Float[Tensor, "c b"], goal: Float[Tensor, " b"], out: Float[Tensor, "c b"]
    ) -> None:
        """By how much each pick raises top − goal · bottom."""
        torch.mul(e, goal + 1, out=out).mul_(e).addcmul_(a, a, value=-1)

    def step(self, near: Trial, j: Any, gain: Any, t: int) -> tuple[Any, Any]:
        """Products a and e of drafting j."""
        A, E = near.a[:t], near.e[:t]
        bottom = near.bottom[j]
        above = (near.top[j] + bottom) ** -0.5
        return (near.K[j] - A[:, j].T @ A) * above, (near.G[j] - E[:, j].T @ E) * bottom**-0.5

    def commit(self, panel: Panel, count: int, moved: list[tuple[slice, Tensor]]) -> None:
        """Take the first `count` picks of the panel for good."""
        for where, products in moved:
            top, bottom = self.moves(*products[:, :, :count])
            self.top[where] -= top.sum(1)
            self.bottom[where] -= bottom.sum(1)
        self.bottom.clamp_(min=self.ridge)
        self.plain.absorb(panel.first[:count])
        self.given.absorb(panel.second[:count])

    def refresh(self, best: float) -> None:
        """Nothing to make anew."""
