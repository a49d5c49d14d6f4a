"""The shortlist, the rows of all ranks with the largest gains, and the draft: greedy among these rows alone.

The draft is a guess that a pass over all rows then verifies. A step of it is some twenty operations on a thousand
numbers. On the CPU they run on numpy views of the tensors, whose operations start several times sooner than torch's;
what is written here uses only operators that numpy and torch know alike, so that a GPU runs the same lines on tensors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.engine.linalg import on_cpu
from hf_gip.core.engine.state import DraftState, ObjectiveState, RowState
from hf_gip.core.matrix import MatrixSource
from hf_gip.distributed import RowPartition

LOOKAHEAD = 32  # rows of a kernel computed together
LARGE = 1e30  # divides the gain of rows in the span of others


@dataclass(frozen=True, slots=True)
class Shortlist:
    """Candidate rows, whichever rank holds them, with their state."""

    numbers: Int64[Tensor, " p"]  # among all rows, ascending
    gain: Float[Tensor, " p"]
    rows: Float[Tensor, "p d"]  # not scaled
    state: RowState

    def __getitem__(self, index: slice | Int64[Tensor, " b"]) -> "Shortlist":
        """Some of them."""
        return Shortlist(self.numbers[index], self.gain[index], self.rows[index], self.state[index])

    def scaled(self, dtype: torch.dtype) -> Float[Tensor, "p d"]:
        """The rows as the objective sees them."""
        return self.rows.to(dtype) * self.state.scale.to(dtype)[:, None]


def tie_slack(dtype: torch.dtype) -> float:
    """Share of a gain within which two are equal: equal rows must not be told apart by the last bit."""
    return 1e-12 if dtype == torch.float64 else 1e-6


def first_best(gain: Float[Tensor, " n"]) -> Int64[Tensor, ""]:
    """Lowest row whose gain is the largest up to rounding."""
    best = gain.max()
    return (gain >= best - tie_slack(gain.dtype) * best.abs()).to(torch.uint8).argmax()


def gain_ratio(
    numerator: Float[Tensor, "..."], denominator: Float[Tensor, "..."], minimum: Float[Tensor, "..."] | None
) -> Float[Tensor, "..."]:
    """Numerator / denominator, and −∞ for rows in the span of the picks."""
    gain = numerator / denominator
    return gain if minimum is None else gain.masked_fill_(denominator <= minimum, -torch.inf)


def build_shortlist(
    source: MatrixSource, state: RowState, gain: Float[Tensor, " n"], size: int, partition: RowPartition
) -> Shortlist:
    """The `size` rows of all ranks with the largest gains, in their order, the first best among them."""
    if len(gain):
        rows = top_rows(gain, first_best(gain), size)
    else:  # a rank may hold no row
        rows = torch.empty(0, dtype=torch.int64, device=gain.device)
    local = Shortlist(rows + partition.offset, gain[rows], source.rows(rows).to(gain.dtype), state[rows])
    if partition.group is None:
        return local
    gathered = unpack(partition.gather_rows(pack(local), size), local)
    return gathered[top_rows(gathered.gain, first_best(gathered.gain), size)]


def top_rows(gain: Float[Tensor, " n"], best: Int64[Tensor, ""], size: int) -> Int64[Tensor, " p"]:
    """Positions of the largest gains, `best` among them, ascending."""
    marked = gain.index_fill(0, best.view(1), torch.inf)
    return torch.topk(marked, min(size, len(gain)), sorted=False).indices.sort().values


def pack(shortlist: Shortlist) -> Float[Tensor, "p w"]:
    """All numbers of each row in one line, for one gather."""
    state, gain = shortlist.state, shortlist.gain
    minimum = torch.zeros_like(gain) if state.min_denominator is None else state.min_denominator
    bits = shortlist.numbers.view(gain.dtype).view(len(gain), 8 // gain.itemsize)  # copied, never computed with
    scalars = torch.stack([gain, state.scale, state.numerator, state.denominator, minimum], 1)
    return torch.cat([bits, scalars, state.C, shortlist.rows], 1)


def unpack(lines: Float[Tensor, "s w"], like: Shortlist) -> Shortlist:
    """What `pack` made, of all ranks."""
    b, r = 8 // lines.itemsize, like.state.C.shape[1]
    numbers = lines[:, :b].contiguous().view(torch.int64).flatten()
    gain, scale, numerator, denominator, minimum = lines[:, b : b + 5].unbind(1)
    C, rows = lines[:, b + 5 : b + 5 + r], lines[:, b + 5 + r :]
    minimum = None if like.state.min_denominator is None else minimum
    return Shortlist(numbers, gain, rows, RowState(scale, C, numerator, denominator, minimum))


def draft(objective: ObjectiveState, shortlist: Shortlist, width: int) -> Int64[Tensor, " b"]:
    """Greedy among the rows of the shortlist alone: their positions in it, in the order of the picks.

    Cost: O(p (d + r + t)) for pick t among p rows; the p × p kernels are never whole on the CPU.
    """
    state, p = shortlist.state, len(shortlist.numbers)
    width = min(width, p)
    rows = shortlist.scaled(state.scale.dtype)
    tiny = torch.finfo(rows.dtype).tiny
    a, e = as_array(rows.new_empty(2, width, p))
    numerator, denominator = as_array(state.numerator.clone()), as_array(state.denominator.clamp(min=tiny))
    minimum = None if state.min_denominator is None else as_array(state.min_denominator)
    drafting = DraftState(None, None, numerator, denominator, a, e)
    drafting.K, drafting.G = (kernel(right, operator, drafting) for right, operator in objective.kernels(rows, state))
    gain = as_array(shortlist.gain)
    drafted = torch.empty(width, dtype=torch.int64, device=rows.device)
    out = as_array(drafted)
    for t in range(width):
        drafting.denominator = denominator if minimum is None else denominator + LARGE * (denominator <= minimum)
        if t:
            gain = numerator / drafting.denominator
        j = first_best_of_array(gain, tie_slack(rows.dtype))
        out[t : t + 1] = j
        a[t : t + 1], e[t : t + 1] = objective.draft_step(drafting, j, gain, t)
        numerator_delta, denominator_delta = objective.deltas(a[t], e[t])
        numerator -= numerator_delta
        numerator[j] = -torch.inf
        denominator -= denominator_delta
        denominator = denominator.clip(min=max(objective.ridge, tiny))
    return drafted


def as_array(tensor: Tensor) -> Any:
    """The tensor itself on a GPU, a numpy view of it on the CPU."""
    return tensor.numpy() if on_cpu(tensor) else tensor


def first_best_of_array(gain: Any, slack: float) -> Any:
    """`first_best` with a slack, of an array, as an array of one."""
    best = gain.max()
    return ((gain >= best - slack * abs(best)) * 1).argmax().reshape(1)


def kernel(right: Float[Tensor, "p d"], operator: Callable[[Tensor], Tensor], drafting: DraftState) -> Any:
    """operator(right) rightᵀ: whole on a GPU; on the CPU, where few of its rows are ever used, in parts."""
    return LazyKernel(right, operator, drafting) if on_cpu(right) else operator(right) @ right.T


class LazyKernel:
    """The rows of operator(right) rightᵀ as arrays. A missing one is computed with those likely to be used next.

    They are the rows whose gains are the largest now: many in one product cost little more than one alone. Torch
    computes them: numpy would start threads of its own beside torch's.
    """

    def __init__(
        self, right: Float[Tensor, "p d"], operator: Callable[[Tensor], Tensor], drafting: DraftState
    ) -> None:
        self.right, self.operator, self.drafting = right, operator, drafting
        self.computed: dict[int, Any] = {}

    def __getitem__(self, j: Any) -> Any:
        """Row j."""
        row = int(j[0])
        if row not in self.computed:
            gain = self.drafting.numerator / self.drafting.denominator
            gain[list(self.computed)] = -torch.inf
            gain[row] = torch.inf
            count = min(LOOKAHEAD, len(gain))
            batch = gain.argpartition(len(gain) - count)[len(gain) - count :]
            products = self.operator(self.right[torch.from_numpy(batch)]) @ self.right.T
            self.computed.update(zip(batch.tolist(), products.numpy(), strict=True))
        return self.computed[row][None]
