"""What each objective keeps per row, and how a block of picks moves it.

Both keep two numbers a row, `top` and `bottom`, whose ratio ranks the rows, and move them by products of two numbers a
pick and row, a = X b and e = X c:

- projection: top = ‖Cᵢ‖², bottom = Dᵢ + ridge; top −= 2·a·e, bottom −= a². C = X Σ_S Q; b = Σ_S xⱼ / √bottomⱼ and
  c = (Q_S − ½ b βᵀ) β with Q_S = Σ_S Q and β = Q_Sᵀ xⱼ / √bottomⱼ;
- information: top = vᵢ − uᵢ, bottom = uᵢ + ridge; top −= a² − e², bottom −= e², with b and c the columns of the
  posteriors without and with the queries.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.engine.rows import pieces, wide
from hf_gip.core.rows import Rows

Kernel = tuple[Tensor, Callable[[Tensor], Tensor]]


@dataclass(frozen=True, slots=True)
class Panel:
    """What a block of drafted picks would do, in float64: pick t as if all before it were accepted."""

    first: Float[Tensor, "b d"]  # b of each pick
    second: Float[Tensor, "c d"]  # c of each pick; empty where e follows from C
    beta: Float[Tensor, "b r"]  # empty for the information
    gains: Float[Tensor, " b"]  # rise of the objective
    good: Int64[Tensor, ""]  # how many of them rounding has left

    def sides(self, rows: torch.dtype, work: torch.dtype) -> "Sides":
        """What rows of a type are multiplied by."""
        beta = self.beta.T.to(work)
        return Sides(wide(self.first, rows), wide(self.second, rows), beta, halved(self.beta).to(work))


@dataclass(frozen=True, slots=True)
class Sides:
    """The right sides of a panel's products, in the types they are computed in."""

    first: Float[Tensor, "d w"]
    second: Float[Tensor, "d v"]  # empty where e follows from C
    beta: Float[Tensor, "r b"]
    halved: Float[Tensor, "b b"]  # strict upper triangle of β βᵀ and half its diagonal

    def head(self, count: int) -> "Sides":
        """Those of the first `count` picks, where each is in one part."""
        return Sides(self.first[:, :count], self.second[:, :count], self.beta[:, :count], self.halved[:count, :count])


def halved(beta: Float[Tensor, "b r"]) -> Float[Tensor, "b b"]:
    """Strict upper triangle of β βᵀ and half its diagonal."""
    upper = (beta @ beta.T).triu()
    upper.diagonal().mul_(0.5)
    return upper


@dataclass(frozen=True, slots=True)
class Held:
    """What the state holds of some rows."""

    scale: Float[Tensor, " p"]
    C: Float[Tensor, "p r"]  # empty where it is not kept
    top: Float[Tensor, " p"]
    bottom: Float[Tensor, " p"]
    floor: Float[Tensor, " p"] | None

    def at(self, where: slice | Int64[Tensor, " c"]) -> "Held":
        """The same of some of them."""
        floor = None if self.floor is None else self.floor[where]
        return Held(self.scale[where], self.C[where], self.top[where], self.bottom[where], floor)


def energies(source: Rows, scale: Float[Tensor, " n"], columns: Float[Tensor, "d r"] | None) -> Float[Tensor, " n"]:
    """‖xᵢ‖², or ‖columnsᵀ xᵢ‖², without the n × r product."""
    out = torch.empty_like(scale)
    columns = None if columns is None else columns.to(scale.dtype)
    for where, rows in pieces(source, 8192):
        if columns is None:
            out[where] = (rows.double().square().sum(1) * scale[where].double() ** 2).to(scale.dtype)
        else:
            out[where] = ((rows.to(scale.dtype) @ columns) * scale[where, None]).square().sum(1)
    return out


@dataclass(slots=True)
class Trial:
    """The shortlist while picks are drafted from it, in arrays as `array` makes them."""

    K: Any  # p × p; K[j] is a row of it
    G: Any
    top: Any  # p
    bottom: Any
    a: Any  # b × p
    e: Any
