"""Exact greedy by draft and verify: one pass over the rows accepts a block of picks.

1. Draft: the best `shortlist` rows by current gain run greedy among themselves, on their own kernel.
2. Verify: one product of all rows with the drafts' columns gives every row's gain before each draft.
3. Accept the drafts up to the first that some row outside beats, and go on from the exact state.

The first draft is the best row of all, so each pass takes at least one. A draft that rounding refuses costs
time, never exactness. Of rows that tie up to rounding the lowest is taken.

Where ranks share the rows, each step but the verification is done by all of them alike, on the same shortlist: one
gather brings it together, one reduction finds how many drafts no rank's rows beat.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.engine.draft import draft
from hf_gip.core.engine.information import Information
from hf_gip.core.engine.ledger import Anyone
from hf_gip.core.engine.projection import Projection
from hf_gip.core.engine.ranks import Ranks, shared
from hf_gip.core.engine.rows import ready
from hf_gip.core.engine.shortlist import first_best, nominate, ratio
from hf_gip.core.engine.verify import PIECE, verify
from hf_gip.core.rows import Rows

BLOCK = 64
NEAR = 16  # rows on the shortlist per draft
KEPT = 3 << 27  # bytes of products kept between verifying and accepting: with 10⁶ rows in a file all fits 1.5 GiB


@dataclass(frozen=True, slots=True)
class Picks:
    """Rows taken, in order, with the rise of the objective at each, and how often all rows were read."""

    indices: Int64[Tensor, " k"]
    gains: Float[Tensor, " k"]
    passes: int = 0


def greedy(
    source: Rows,
    state: Projection | Information,
    k: int,
    *,
    ledger: Anyone | None = None,
    ranks: Ranks | None = None,
    block: int = BLOCK,
    piece: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Picks:
    """Up to `k` picks; fewer once no row's gain is above `state.stop`, or none is allowed.

    Args:
        source: The rows held here.
        state: The objective before the first pick; used up.
        k: How many rows to pick.
        ledger: What limits the picks; used up. None: nothing does.
        ranks: Who holds the other rows; picks are numbers among all. None: nobody.
        block: Most picks drafted at once.
        piece: Rows replayed at once; 0 chooses by device. Halved, with a warning, while memory is short.
        progress: Called after each pass with the picks and passes so far.

    Returns:
        The picks; the same for every block, piece and number of ranks, up to rounding.

    Raises:
        OutOfMemoryError: If the device has too little memory even for the smallest pieces.
        RuntimeError: If another rank has ended.
    """
    ledger, ranks = ledger or Anyone(), ranks or shared(source.n, None)
    work, device = state.scale.dtype, state.scale.device
    piece = piece or (PIECE if device.type == "cpu" else 1 << 20)
    block = max(1, min(block, k, KEPT // (2 * max(ranks.counts) * work.itemsize)))
    store = torch.empty(2 * block * source.n, dtype=work, device=device)
    indices: list[Tensor] = []
    gains: list[Tensor] = []
    taken = passes = 0
    width = block
    while taken < k:
        plain = ratio(state.top, state.bottom, state.floor)
        width = ledger.width(width)
        gain = ledger.rank(plain)
        near = nominate(source, state.held(), gain, NEAR * width, ranks)
        first = first_best(near.gain)
        if ready(near.gain) and not bool(near.gain[first] > state.stop):
            break  # a GPU tells with the block
        drafts = draft(state, near, min(width, k - taken))
        asked = near.at(drafts[: ledger.reach(near.numbers[drafts])])
        panel = state.panel(asked.scaled(torch.float64), asked.held)
        count, level, moved, piece = verify(source, state, panel, asked, store, piece, ranks)
        if not count:
            break
        state.commit(panel, count, moved)
        state.refresh(level)
        indices.append(asked.numbers[:count])
        ledger.take(asked.numbers[:count])
        state.top[ranks.mine(torch.cat(indices))] = -torch.inf
        gains.append(panel.gains[:count])
        taken, passes = taken + count, passes + 1
        width = min(block, max(4, 2 * count))
        if progress is not None:
            progress(taken, passes)
    if not indices:
        return Picks(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.float64))
    return Picks(torch.cat(indices).cpu(), torch.cat(gains).cpu(), passes)
