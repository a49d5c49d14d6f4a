"""The rows that drafts are taken from: those with the largest gains, of all ranks."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.engine.objectives import Held
from hf_gip.core.engine.ranks import Ranks
from hf_gip.core.rows import Rows


@dataclass(frozen=True, slots=True)
class Near:
    """Rows on the shortlist, wherever they are held, with what is held of them."""

    numbers: Int64[Tensor, " p"]  # among all rows, ascending
    gain: Float[Tensor, " p"]
    rows: Float[Tensor, "p d"]  # not scaled
    held: Held

    def at(self, where: slice | Int64[Tensor, " b"]) -> "Near":
        """Some of them."""
        return Near(self.numbers[where], self.gain[where], self.rows[where], self.held.at(where))

    def scaled(self, dtype: torch.dtype) -> Float[Tensor, "p d"]:
        """The rows as the objective sees them."""
        return self.rows.to(dtype) * self.held.scale.to(dtype)[:, None]


def slack(dtype: torch.dtype) -> float:
    """Share of a gain within which two are equal: equal rows must not be told apart by the last bit."""
    return 1e-12 if dtype == torch.float64 else 1e-6


def first_best(gain: Float[Tensor, " n"]) -> Int64[Tensor, ""]:
    """Lowest row whose gain is the largest up to rounding."""
    best = gain.max()
    return (gain >= best - slack(gain.dtype) * best.abs()).to(torch.uint8).argmax()


def ratio(
    top: Float[Tensor, "..."], bottom: Float[Tensor, "..."], floor: Float[Tensor, "..."] | None
) -> Float[Tensor, "..."]:
    """Top / bottom, and −∞ for rows that have nothing of their own left."""
    gain = top / bottom
    return gain if floor is None else gain.masked_fill_(bottom <= floor, -torch.inf)


def nominate(source: Rows, held: Held, gain: Float[Tensor, " n"], size: int, ranks: Ranks) -> Near:
    """The `size` rows of all ranks with the largest gains, in their order, the first best among them."""
    best = first_best(gain)
    where = strongest(gain, best, size)
    near = Near(where + ranks.first, gain[where], source.rows(where).to(gain.dtype), held.at(where))
    if ranks.group is None:
        return near
    together = unpacked(ranks.gather(packed(near), size), near)
    return together.at(strongest(together.gain, first_best(together.gain), size))


def strongest(gain: Float[Tensor, " n"], best: Int64[Tensor, ""], size: int) -> Int64[Tensor, " p"]:
    """Positions of the largest gains, `best` among them, ascending."""
    marked = gain.index_fill(0, best.view(1), torch.inf)
    return torch.topk(marked, min(size, len(gain)), sorted=False).indices.sort().values


def packed(near: Near) -> Float[Tensor, "p w"]:
    """All numbers of each row side by side."""
    held = near.held
    floor = torch.zeros_like(near.gain) if held.floor is None else held.floor
    bits = near.numbers.view(near.gain.dtype).view(len(near.gain), -1)  # copied, never reckoned with
    return torch.cat(
        [bits, torch.stack([near.gain, held.scale, held.top, held.bottom, floor], 1), held.C, near.rows], 1
    )


def unpacked(rows: Float[Tensor, "s w"], like: Near) -> Near:
    """What `packed` made, of all ranks."""
    b, r = 8 // rows.itemsize, like.held.C.shape[1]
    numbers = rows[:, :b].contiguous().view(torch.int64).flatten()
    gain, scale, top, bottom, floor = rows[:, b : b + 5].unbind(1)
    held = Held(scale, rows[:, b + 5 : b + 5 + r], top, bottom, None if like.held.floor is None else floor)
    return Near(numbers, gain, rows[:, b + 5 + r :], held)
