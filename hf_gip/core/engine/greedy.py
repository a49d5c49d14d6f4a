"""Exact greedy by draft and verify: one pass over the rows accepts a block of picks.

1. Draft: the best `shortlist` rows by current gain run greedy among themselves, on their own kernel.
2. Verify: one product of all rows with the drafts' columns gives every row's gain before each draft.
3. Accept the drafts up to the first that some row outside beats, and go on from the exact state.

The first draft is the best row of all, so each pass takes at least one. A draft that rounding refuses costs
time, never exactness. Of rows that tie up to rounding the lowest is taken.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.engine.ledger import Anyone
from hf_gip.core.engine.objectives import Information, Near, Panel, Projection
from hf_gip.core.engine.rows import pieces
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


def slack(dtype: torch.dtype) -> float:
    """Share of a gain within which two are equal: equal rows must not be told apart by the last bit."""
    return 1e-12 if dtype == torch.float64 else 1e-6


def first_best(gain: Float[Tensor, " n"]) -> Int64[Tensor, ""]:
    """Lowest row whose gain is the largest up to rounding."""
    best = gain.max()
    return (gain >= best - slack(gain.dtype) * best.abs()).to(torch.uint8).argmax()


def greedy(
    source: Rows,
    state: Projection | Information,
    k: int,
    *,
    ledger: Anyone | None = None,
    block: int = BLOCK,
    piece: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Picks:
    """Up to `k` picks; fewer once no row's gain is above `state.stop`, or none is allowed.

    Args:
        source: The rows.
        state: The objective before the first pick; used up.
        k: How many rows to pick.
        ledger: What limits the picks; used up. None: nothing does.
        block: Most picks drafted at once.
        piece: Rows replayed at once; 0 chooses by device. Halved, with a warning, while memory is short.
        progress: Called after each pass with the picks and passes so far.

    Returns:
        The picks; the same for every block and piece, up to rounding.

    Raises:
        OutOfMemoryError: If the device has too little memory even for the smallest pieces.
    """
    ledger = ledger or Anyone()
    n, work, device = source.n, state.scale.dtype, state.scale.device
    piece = piece or (PIECE if device.type == "cpu" else 1 << 20)
    block = max(1, min(block, k, KEPT // (2 * n * work.itemsize)))
    store = torch.empty(2 * block * n, dtype=work, device=device)
    indices: list[Tensor] = []
    gains: list[Tensor] = []
    taken = passes = 0
    width = block
    while taken < k:
        plain = ratio(state.top, state.bottom, state.floor)
        gain = ledger.rank(plain)
        best = first_best(gain)
        if not float(gain[best]) > state.stop:
            break
        level = float(plain[best])
        width = ledger.width(width)
        near = shortlist(gain, best, NEAR * width)
        rows = source.rows(near).double() * state.scale[near, None].double()
        left = state.left(rows)
        drafts = draft(state, near, best, rows, left, min(width, k - taken))
        drafts = drafts[: ledger.reach(near[drafts])]
        panel = state.panel(near[drafts], rows[drafts], tuple(part[drafts] for part in left))
        picks = near[drafts][: len(panel.gains)]
        gain[near] = -torch.inf
        others = torch.topk(gain, min(OTHERS * width, n), sorted=False).indices
        try:
            count, moved = verify(source, state, panel, picks, others, store, piece)
        except torch.OutOfMemoryError:
            if piece <= SMALLEST:
                raise
            piece //= 2
            warnings.warn(f"the device is short of memory: going on with {piece:,} rows at a time.", stacklevel=2)
            continue  # nothing of the state has moved
        state.commit(panel, count, moved)
        state.refresh(level)
        indices.append(picks[:count])
        ledger.take(picks[:count])
        state.top[torch.cat(indices)] = -torch.inf
        gains.append(panel.gains[:count])
        taken, passes = taken + count, passes + 1
        width = min(block, max(4, 2 * count))
        if progress is not None:
            progress(taken, passes)
    if not indices:
        return Picks(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.float64))
    return Picks(torch.cat(indices).cpu(), torch.cat(gains).cpu(), passes)


def ratio(
    top: Float[Tensor, "*b n"], bottom: Float[Tensor, "*b n"], floor: Float[Tensor, " n"] | None
) -> Float[Tensor, "*b n"]:
    """Top / bottom, and −∞ for rows that have nothing of their own left."""
    gain = top / bottom
    return gain if floor is None else gain.masked_fill_(bottom <= floor, -torch.inf)


def shortlist(gain: Float[Tensor, " n"], best: Int64[Tensor, ""], size: int) -> Int64[Tensor, " p"]:
    """The rows with the largest gains, `best` among them, in their order."""
    near = torch.topk(gain, min(size, len(gain)), sorted=True).indices
    if not bool((near == best).any()):
        near[-1] = best
    return near.sort().values


def draft(
    state: Projection | Information,
    near: Int64[Tensor, " p"],
    best: Int64[Tensor, ""],
    rows: Float[Tensor, "p d"],
    left: tuple[Tensor, ...],
    width: int,
) -> Int64[Tensor, " b"]:
    """Greedy among the rows `near` alone, beginning with `best`: their positions."""
    p, width = len(near), min(width, len(near))
    K, G = state.kernels(near, rows, left)
    space = K.new_empty(2, width, p)
    here = Near(K, G, state.top[near], state.bottom[near].clamp_(min=torch.finfo(K.dtype).tiny), space[0], space[1])
    floor = None if state.floor is None else state.floor[near]
    chosen = torch.empty(width, dtype=torch.int64, device=K.device)
    for t in range(width):
        gain = ratio(here.top, here.bottom, floor)
        j = (first_best(gain) if t else torch.searchsorted(near, best)).view(1)
        chosen[t : t + 1] = j
        a, e = state.step(here, j, gain, t)
        here.a[t], here.e[t] = a[0], e[0]
        top, bottom = state.moves(a[0], e[0])
        here.top.sub_(top).index_fill_(0, j, -torch.inf)
        here.bottom.sub_(bottom).clamp_(min=max(state.ridge, torch.finfo(K.dtype).tiny))
    return chosen


def verify(
    source: Rows,
    state: Projection | Information,
    panel: Panel,
    picks: Int64[Tensor, " b"],
    others: Int64[Tensor, " o"],
    store: Float[Tensor, " s"],
    piece: int,
) -> tuple[int, list[tuple[slice, Tensor]]]:
    """How many drafts no other row beats, at least one, and the products a and e of all rows.

    `others` are tried first: drafts that fall there cost no product with all rows.
    """
    work, b = state.scale.dtype, len(picks)
    own = store.new_empty(2 * b, b)
    state.products(source.rows(picks).to(work), picks, panel, own)
    asked = replay(state, picks, own).diagonal().clone()
    refused = (~(asked > state.stop)).nonzero()
    count = max(1, int(refused[0])) if len(refused) else b
    asked[0] = torch.inf  # it is the best row by the state itself
    out = store.new_empty(2 * count, len(others))
    state.products(source.rows(others).to(work), others, panel.head(count), out)
    count = unbeaten(replay(state, others, out), others, picks, asked, count)
    moved: list[tuple[slice, Tensor]] = []
    for where, rows in pieces(source, piece):
        size = where.stop - where.start
        out = store[2 * b * where.start :][: 2 * count * size].view(2 * count, size)
        state.products(rows.to(work), where, panel.head(count), out)
        moved.append((where, out))
        numbers = torch.arange(where.start, where.stop, device=picks.device)
        count = unbeaten(replay(state, where, out), numbers, picks, asked, count)
    return count, moved


def unbeaten(
    gain: Float[Tensor, "b c"],
    numbers: Int64[Tensor, " c"],
    picks: Int64[Tensor, " p"],
    asked: Float[Tensor, " p"],
    count: int,
) -> int:
    """How many of the first `count` drafts no row of `gain` beats; of a tie the lower row wins."""
    close = slack(gain.dtype) * asked[:count].abs()
    for t in (gain.amax(1) >= asked[:count] - close).nonzero().flatten().tolist():
        rival = gain[t].masked_fill(torch.isin(numbers, picks[: t + 1]), -torch.inf)
        over = (rival > asked[t] + close[t]) | ((rival >= asked[t] - close[t]) & (numbers < picks[t]))
        if bool(over.any()):
            return t
    return count


def replay(
    state: Projection | Information, where: slice | Int64[Tensor, " c"], products: Float[Tensor, "q c"]
) -> Float[Tensor, "b c"]:
    """Gain of each row before each draft."""
    b = len(products) // 2
    earlier = torch.ones(b, b, dtype=products.dtype, device=products.device).tril_(-1)
    top, bottom = state.moves(products[:b], products[b:])
    top = torch.addmm(state.top[where], earlier, top, alpha=-1)
    bottom = torch.addmm(state.bottom[where], earlier, bottom, alpha=-1).clamp_(min=state.ridge)
    return ratio(top, bottom, None if state.floor is None else state.floor[where])
