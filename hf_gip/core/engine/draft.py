"""Greedy among the rows of the shortlist: the guess that a pass over all rows then verifies.

A step is some twenty operations on a thousand numbers. On the CPU they run on numpy views of the tensors, whose
operations start several times sooner than torch's; what is written here uses only operators that both know, so that
a GPU runs the same lines on its tensors.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.engine.information import Information
from hf_gip.core.engine.objectives import Trial
from hf_gip.core.engine.projection import Projection
from hf_gip.core.engine.rows import ready
from hf_gip.core.engine.shortlist import Near, slack

AHEAD = 32  # rows of a kernel made together
LARGE = 1e30  # divides the gain of rows that have nothing of their own left


def draft(state: Projection | Information, near: Near, width: int) -> Int64[Tensor, " b"]:
    """Greedy among the rows `near` alone: their positions, in the order of the picks.

    Cost: O(p (d + r + t)) for pick t among p rows; the p × p kernels are never whole on the CPU.
    """
    held, p = near.held, len(near.numbers)
    width = min(width, p)
    rows = near.scaled(held.scale.dtype)
    tiny = torch.finfo(rows.dtype).tiny
    space = array(rows.new_empty(2, width, p))
    top, bottom = array(held.top.clone()), array(held.bottom.clamp(min=tiny))
    floor = None if held.floor is None else array(held.floor)
    here = Trial(None, None, top, bottom, space[0], space[1])
    here.K, here.G = (kernel(side, left, here) for side, left in state.kernels(rows, held))
    gain = array(near.gain)
    chosen = torch.empty(width, dtype=torch.int64, device=rows.device)
    out = array(chosen)
    for t in range(width):
        here.bottom = bottom if floor is None else bottom + LARGE * (bottom <= floor)
        if t:
            gain = top / here.bottom
        j = first(gain, slack(rows.dtype))
        out[t : t + 1] = j
        a, e = state.step(here, j, gain, t)
        here.a[t : t + 1], here.e[t : t + 1] = a, e
        less, thinner = state.moves(a, e)
        top -= less[0]
        top[j] = -torch.inf
        bottom -= thinner[0]
        bottom = bottom.clip(min=max(state.ridge, tiny))
    return chosen


def array(tensor: Tensor) -> Any:
    """The tensor itself on a GPU, a numpy view of it on the CPU."""
    return tensor.numpy() if ready(tensor) else tensor


def first(gain: Any, share: float) -> Any:
    """Lowest place whose gain is the largest up to that share, as an array of one."""
    best = gain.max()
    return ((gain >= best - share * abs(best)) * 1).argmax().reshape(1)


def kernel(side: Float[Tensor, "p d"], left: Callable[[Tensor], Tensor], here: Trial) -> Any:
    """left(side) sideᵀ: whole on a GPU, in parts as asked for on the CPU, where few of its rows ever are."""
    return Product(side, left, here) if ready(side) else left(side) @ side.T


class Product:
    """The rows of left(side) sideᵀ as arrays. One that is missing is made with those likely to be asked for next.

    They are the rows whose gains are the largest now: many in one product cost little more than one alone. Torch makes
    them: numpy would start threads of its own beside torch's.
    """

    def __init__(self, side: Float[Tensor, "p d"], left: Callable[[Tensor], Tensor], here: Trial) -> None:
        self.side, self.left, self.here = side, left, here
        self.made: dict[int, Any] = {}

    def __getitem__(self, j: Any) -> Any:
        """Row j."""
        at = int(j[0])
        if at not in self.made:
            self._make(at)
        return self.made[at][None]

    def _make(self, at: int) -> None:
        gain = self.here.top / self.here.bottom
        gain[list(self.made)] = -torch.inf
        gain[at] = torch.inf
        count = min(AHEAD, len(gain))
        some = gain.argpartition(len(gain) - count)[len(gain) - count :]
        rows = self.left(self.side[torch.from_numpy(some)]) @ self.side.T
        self.made.update(zip(some.tolist(), rows.numpy(), strict=True))
