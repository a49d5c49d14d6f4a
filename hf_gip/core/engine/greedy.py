"""Exact greedy by draft and verify: one pass over the rows accepts a block of picks.

1. Draft: the best `shortlist` rows by current gain run greedy among themselves, on their own kernel.
2. Verify: one product of all rows with the drafts' columns gives every row's gain before each draft.
3. Accept the drafts up to the first that some row outside beats, and go on from the exact state.

The first draft is the best row of all, so each pass takes at least one. A draft that rounding refuses costs
time, never exactness. Of rows that tie up to rounding the lowest is taken.

Where ranks share the rows, each step but the verification is done by all of them alike, on the same shortlist: one
gather brings it together, one reduction finds how many drafts no rank's rows beat.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from hf_gip.core.engine.ledger import Anyone
from hf_gip.core.engine.objectives import Held, Information, Panel, Projection, Trial
from hf_gip.core.engine.ranks import Ranks, shared
from hf_gip.core.engine.rows import pieces
from hf_gip.core.engine.shortlist import Near, first_best, nominate, ratio, slack
from hf_gip.core.rows import Rows

PIECE = 2048  # rows whose gains are replayed at once on the CPU: their temporaries stay in the cache
BLOCK = 64
NEAR = 16  # rows on the shortlist per draft
OTHERS = 32  # rows tried before all others, per draft
SMALLEST = 1024  # rows below which it is no use to halve a piece
KEPT = 1 << 28  # bytes of products kept between verifying and accepting


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
        if not float(near.gain[first]) > state.stop:
            break
        level = float(near.held.top[first] / near.held.bottom[first])
        drafts = draft(state, near, min(width, k - taken))
        asked = near.at(drafts[: ledger.reach(near.numbers[drafts])])
        panel = state.panel(asked.scaled(torch.float64), asked.held)
        gain[ranks.mine(near.numbers)] = -torch.inf
        others = torch.topk(gain, min(OTHERS * width, source.n), sorted=False).indices.sort().values
        count, moved, piece = verify(source, state, panel, asked, others, store, piece, ranks)
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


def draft(state: Projection | Information, near: Near, width: int) -> Int64[Tensor, " b"]:
    """Greedy among the rows `near` alone: their positions."""
    held, p = near.held, len(near.numbers)
    width = min(width, p)
    K, G = state.kernels(near.scaled(held.scale.dtype), held)
    space = K.new_empty(2, width, p)
    tiny = torch.finfo(K.dtype).tiny
    here = Trial(K, G, held.top.clone(), held.bottom.clamp(min=tiny), space[0], space[1])
    chosen = torch.empty(width, dtype=torch.int64, device=K.device)
    for t in range(width):
        gain = ratio(here.top, here.bottom, held.floor)
        j = first_best(gain if t else near.gain).view(1)
        chosen[t : t + 1] = j
        a, e = state.step(here, j, gain, t)
        here.a[t], here.e[t] = a[0], e[0]
        top, bottom = state.moves(a[0], e[0])
        here.top.sub_(top).index_fill_(0, j, -torch.inf)
        here.bottom.sub_(bottom).clamp_(min=max(state.ridge, tiny))
    return chosen


def verify(
    source: Rows,
    state: Projection | Information,
    panel: Panel,
    asked: Near,
    others: Int64[Tensor, " o"],
    store: Float[Tensor, " s"],
    piece: int,
    ranks: Ranks,
) -> tuple[int, list[tuple[slice, Tensor]], int]:
    """How many drafts no other row beats, at least one; the products a and e of all rows; the piece that fitted.

    Raises:
        OutOfMemoryError: If even the smallest piece does not fit.
    """
    while True:
        try:
            count, moved = attempt(source, state, panel, asked, others, store, piece, ranks.first)
        except torch.OutOfMemoryError:
            if piece <= SMALLEST:
                raise
            piece //= 2  # nothing of the state has moved
            warnings.warn(f"the device is short of memory: going on with {piece:,} rows at a time.", stacklevel=3)
        else:
            return int(ranks.least(count, asked.numbers)), moved, piece


def attempt(
    source: Rows,
    state: Projection | Information,
    panel: Panel,
    asked: Near,
    others: Int64[Tensor, " o"],
    store: Float[Tensor, " s"],
    piece: int,
    first: int,
) -> tuple[Int64[Tensor, ""], list[tuple[slice, Tensor]]]:
    """How many drafts no row held here beats, and the products.

    `others` are tried first: drafts that fall there cost no product with all rows.
    """
    work, b, held = state.scale.dtype, len(panel.gains), state.held()
    picks = asked.numbers[:b]
    own = asked.at(slice(0, b))
    out = store.new_empty(2 * b, b)
    state.products(own.rows, own.held, panel, out)
    goal = replay(state, own.held, out).diagonal().clone()
    count = leading(goal > state.stop).clamp(min=1)
    goal[0] = torch.inf  # it is the best row by the state itself
    moved: list[tuple[slice, Tensor]] = []
    limit = trimmed(count, b)
    out = store.new_empty(2 * limit, len(others))
    state.products(source.rows(others).to(work), held.at(others), panel.head(limit), out)
    count = torch.minimum(count, unbeaten(replay(state, held.at(others), out), others + first, picks, goal))
    for where, rows in pieces(source, piece):
        size, limit = where.stop - where.start, trimmed(count, b)
        out = store[2 * b * where.start :][: 2 * limit * size].view(2 * limit, size)
        here = held.at(where)
        state.products(rows.to(work), here, panel.head(limit), out)
        moved.append((where, out))
        numbers = torch.arange(where.start + first, where.stop + first, device=picks.device)
        count = torch.minimum(count, unbeaten(replay(state, here, out), numbers, picks, goal))
    return count, moved


def trimmed(count: Int64[Tensor, ""], b: int) -> int:
    """How many drafts are still worth a product: asking a GPU would make it wait."""
    return b if count.is_cuda else int(count)


def leading(good: Bool[Tensor, " b"]) -> Int64[Tensor, ""]:
    """How many are true before the first that is not."""
    return good.long().cumprod(0).sum()


def unbeaten(
    gain: Float[Tensor, "b c"],
    numbers: Int64[Tensor, " c"],
    picks: Int64[Tensor, " p"],
    goal: Float[Tensor, " p"],
) -> Int64[Tensor, ""]:
    """How many of the first b drafts no row of `gain` beats; of a tie the lower row wins. `gain` is used up."""
    b = len(gain)
    picks, goal = picks[:b], goal[:b, None]
    close = slack(gain.dtype) * goal.abs()
    place = torch.searchsorted(numbers, picks).clamp(max=len(numbers) - 1)  # `numbers` ascend
    gone = (numbers[place] == picks) & torch.ones(b, b, dtype=torch.bool, device=gain.device).tril()
    barred = torch.zeros(b, b, dtype=gain.dtype, device=gain.device)
    barred.masked_fill_(gone, -torch.inf).masked_fill_(~gone, torch.inf)
    gain.scatter_reduce_(1, place.expand(b, b), barred, "amin")  # a pick is no rival of itself and of later ones
    highest = gain.amax(1, keepdim=True)
    if not gain.is_cuda and not bool((highest >= goal - close).any()):
        return picks.new_tensor(b)
    lower = (gain >= goal - close) & (numbers < picks[:, None])
    return leading(~((highest > goal + close)[:, 0] | lower.any(1)))


def replay(state: Projection | Information, held: Held, products: Float[Tensor, "q c"]) -> Float[Tensor, "b c"]:
    """Gain of each row before each draft."""
    b = len(products) // 2
    earlier = torch.ones(b, b, dtype=products.dtype, device=products.device).tril_(-1)
    top, bottom = state.moves(products[:b], products[b:])
    top = torch.addmm(held.top, earlier, top, alpha=-1)
    bottom = torch.addmm(held.bottom, earlier, bottom, alpha=-1).clamp_(min=state.ridge)
    return ratio(top, bottom, held.floor)
