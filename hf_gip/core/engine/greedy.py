"""Exact greedy by draft and verify: one pass over the rows accepts a block of picks.

1. Draft: the `SHORTLIST` rows a draft of largest gain run greedy among themselves, on their own kernel.
2. Verify: one product of all rows with the drafts' columns gives every row's gain before each draft.
3. Accept the drafts up to the first that some other row beats, and go on from the exact state.

The first draft is the best row of all, so each pass accepts at least one. A draft that rounding refuses costs
time, never exactness. Of rows that tie up to rounding the lowest is chosen.

Where ranks share the rows, each step but the verification is done by all of them alike, on the same shortlist: one
gather brings it together, one reduction finds how many drafts no rank's rows beat.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.constraints import Unconstrained
from hf_gip.core.engine.linalg import on_cpu
from hf_gip.core.engine.shortlist import build_shortlist, draft, first_best, gain_ratio
from hf_gip.core.engine.state import ObjectiveState
from hf_gip.core.engine.verify import CHUNK_ROWS, verify
from hf_gip.core.matrix import MatrixSource
from hf_gip.distributed import RowPartition, partition_rows

BLOCK = 64
SHORTLIST = 16  # rows on the shortlist per draft
PRODUCT_BYTES = 3 << 27  # products stored between verifying and accepting: with 10⁶ rows in a file all fits 1.5 GiB


@dataclass(frozen=True, slots=True)
class GreedyResult:
    """Rows in pick order, with the rise of the objective at each, and how often all rows were read."""

    indices: Int64[Tensor, " k"]
    gains: Float[Tensor, " k"]
    passes: int = 0


def greedy(
    source: MatrixSource,
    state: ObjectiveState,
    k: int,
    *,
    constraints: Unconstrained | None = None,
    partition: RowPartition | None = None,
    block: int = BLOCK,
    chunk_rows: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> GreedyResult:
    """Up to `k` picks; fewer once no row's gain is above `state.min_gain`, or none is allowed.

    Args:
        source: The rows of this process.
        state: The objective before the first pick; used up.
        k: How many rows to pick.
        constraints: The state of the constraints, used up; *optional*, defaults to none.
        partition: Which rank holds which rows, *optional*, defaults to this process alone.
        block: Most picks drafted at once.
        chunk_rows: Rows replayed at once; 0 chooses by device. Halved, with a warning, while memory is short.
        progress: Called after each pass with the picks and passes so far.

    Returns:
        The picks; the same for every block, chunk and number of ranks, up to rounding.

    Raises:
        OutOfMemoryError: If the device has too little memory even for the smallest chunks.
        RuntimeError: If another rank has ended.
    """
    constraints, partition = constraints or Unconstrained(), partition or partition_rows(source.n, None)
    dtype, device = state.scale.dtype, state.scale.device
    chunk_rows = chunk_rows or (CHUNK_ROWS if device.type == "cpu" else 1 << 20)
    block = max(1, min(block, k, PRODUCT_BYTES // (2 * max(partition.counts) * dtype.itemsize)))
    buffer = torch.empty(2 * block * source.n, dtype=dtype, device=device)
    indices: list[Tensor] = []
    gains: list[Tensor] = []
    num_picks = passes = 0
    width = block
    while num_picks < k:
        gain = gain_ratio(state.numerator, state.denominator, state.min_denominator)
        width = constraints.max_block(width)
        shortlist = build_shortlist(source, state.row_state(), constraints.rank(gain), SHORTLIST * width, partition)
        if on_cpu(shortlist.gain) and not bool(shortlist.gain[first_best(shortlist.gain)] > state.min_gain):
            break  # a GPU learns it with the block
        positions = draft(state, shortlist, min(width, k - num_picks))
        drafted = shortlist[positions[: constraints.count_allowed(shortlist.numbers[positions])]]
        drafts = state.draft_block(drafted.scaled(torch.float64), drafted.state)
        count, first_gain, products, chunk_rows = verify(source, state, drafts, drafted, buffer, chunk_rows, partition)
        if not count:
            break
        accepted = drafted.numbers[:count]
        state.commit(drafts, count, products)
        state.refresh(first_gain)
        constraints.update(accepted)
        indices.append(accepted)
        gains.append(drafts.gains[:count])
        state.numerator[partition.local(torch.cat(indices))] = -torch.inf  # no row twice
        num_picks, passes = num_picks + count, passes + 1
        width = min(block, max(4, 2 * count))
        if progress is not None:
            progress(num_picks, passes)
    if not indices:
        return GreedyResult(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.float64))
    return GreedyResult(torch.cat(indices).cpu(), torch.cat(gains).cpu(), passes)
