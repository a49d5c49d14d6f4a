"""One product of all rows with the drafted columns: how many of the drafts no other row beats."""

import warnings

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from hf_gip.core.engine.information import Information
from hf_gip.core.engine.objectives import Held, Panel
from hf_gip.core.engine.projection import Projection
from hf_gip.core.engine.ranks import Ranks
from hf_gip.core.engine.rows import pieces, ready
from hf_gip.core.engine.shortlist import Near, ratio, slack
from hf_gip.core.rows import Rows

PIECE = 2048  # rows whose gains are replayed at once on the CPU: their temporaries stay in the cache
SMALLEST = 1024  # rows below which it is no use to halve a piece
NEARLY = 1e-5  # share of a gain by which a row may fall short and still be looked at closely


def verify(
    source: Rows,
    state: Projection | Information,
    panel: Panel,
    asked: Near,
    store: Float[Tensor, " s"],
    piece: int,
    ranks: Ranks,
) -> tuple[int, float, list[tuple[slice, Tensor]], int]:
    """How many drafts no other row beats: the first at least, unless it gains nothing.

    With the first's plain gain, the products a and e of all rows, and the piece that fitted. Here alone a GPU is
    waited for.

    Raises:
        OutOfMemoryError: If even the smallest piece does not fit.
    """
    drafted = ranks.mine(asked.numbers)
    before = state.top[drafted]
    state.top[drafted] = -torch.inf  # drafts are compared among themselves, once
    try:
        while True:
            try:
                count, moved = attempt(source, state, panel, asked, store, piece, ranks.first)
            except torch.OutOfMemoryError:
                if piece <= SMALLEST:
                    raise
                piece //= 2  # nothing of the state has moved
                warnings.warn(f"the device is short of memory: going on with {piece:,} rows at a time.", stacklevel=3)
            else:
                told = torch.stack([ranks.least(count, asked.numbers).double(), level(asked).double()]).tolist()
                return int(told[0]), told[1], moved, piece
    finally:
        state.top[drafted] = before


def attempt(
    source: Rows,
    state: Projection | Information,
    panel: Panel,
    asked: Near,
    store: Float[Tensor, " s"],
    piece: int,
    first: int,
) -> tuple[Int64[Tensor, ""], list[tuple[slice, Tensor]]]:
    """How many drafts no row held here beats, and the products."""
    work, b, held = state.scale.dtype, len(panel.gains), state.held()
    picks = asked.numbers[:b]
    own = asked.at(slice(0, b))
    out = store.new_empty(2, b, b)
    state.products(own.rows, own.held, panel.sides(own.rows.dtype, work), out)
    among = replay(state, own.held, out)
    goal = among.diagonal().clone()
    count = torch.minimum(leading(goal > state.stop), panel.good).clamp(min=1) * (asked.gain[0] > state.stop)
    screen = Screen(goal, min(piece, source.n) if ready(goal) else 0)  # a GPU has no use for it
    goal[0] = torch.inf  # it is the best row by the state itself
    past = torch.ones(b, b, dtype=torch.bool, device=goal.device).triu_()
    count = torch.minimum(count, unbeaten(among.masked_fill_(past, -torch.inf), picks, picks, goal))
    moved: list[tuple[slice, Tensor]] = []
    sides = panel.sides(work if ready(store) else source.dtype, work)
    for where, rows in pieces(source, piece):
        size, limit = where.stop - where.start, trimmed(count, b)
        out = store[2 * b * where.start :][: 2 * limit * size].view(2, size, limit)
        here = held.at(where)
        sides = sides if limit == b else sides.head(limit)
        state.products(rows.to(work) if ready(rows) else rows, here, sides, out)
        moved.append((where, out))
        numbers = torch.arange(where.start + first, where.stop + first, device=picks.device)
        count = torch.minimum(count, screen.unbeaten(state, here, out, numbers, picks, goal))
    return count, moved


class Screen:
    """Tells which rows can come near a draft's gain at all: few, and only they are replayed.

    Row i beats draft t if topᵢ − goal_t bottomᵢ + Σ_{s<t} r_s > 0, where r_s = goal_t a² − Δtop is what pick s adds.
    The lowest goal so far in place of goal_t, and goal_s in r_s, only raise it. First r_s counts where it is positive
    and the lowest goal of all stands for each: one sum a row. The rows that are left get the sums for every t.
    """

    def __init__(self, goal: Float[Tensor, " b"], size: int) -> None:
        self.goal = goal.cummin(0).values
        self.lowest = NEARLY * self.goal.abs() - self.goal  # none is lost to rounding
        self.parts = goal.new_empty(size * len(goal))

    def unbeaten(
        self,
        state: Projection | Information,
        held: Held,
        products: Float[Tensor, "2 c b"],
        numbers: Int64[Tensor, " c"],
        picks: Int64[Tensor, " p"],
        goal: Float[Tensor, " p"],
    ) -> Int64[Tensor, ""]:
        """How many drafts no row beats, of those that have products. A GPU replays all rows: to ask it is to wait."""
        if ready(numbers):
            some = self.rivals(state, held, products)
            if not len(some):
                return picks.new_tensor(products.shape[2])
            held, products, numbers = held.at(some), products[:, some], numbers[some]
        return unbeaten(replay(state, held, products), numbers, picks, goal)

    def rivals(
        self, state: Projection | Information, held: Held, products: Float[Tensor, "2 c b"]
    ) -> Int64[Tensor, " r"]:
        """Places of the rows that may beat one of the drafts; more than do, never fewer."""
        _, size, b = products.shape
        parts = self.parts[: size * b].view(size, b)
        state.rise(products[0], products[1], self.goal[:b], parts)
        near = torch.addcmul(held.top * (1 + NEARLY), held.bottom, self.lowest[b - 1])
        some = torch.nonzero(near.add_(parts.relu().sum(1)) >= 0)[:, 0]
        most = (held.top[some] * (1 + NEARLY))[:, None] + held.bottom[some, None] * self.lowest[:b]
        return some[most.addmm_(parts[some], earlier(parts)).amax(1) >= 0]


def level(asked: Near) -> Float[Tensor, ""]:
    """The first draft's gain, whatever it is ranked by."""
    return asked.held.top[0] / asked.held.bottom[0]


def trimmed(count: Int64[Tensor, ""], b: int) -> int:
    """How many drafts are still worth a product: asking a GPU would make it wait."""
    return int(count) if ready(count) else b


def leading(good: Bool[Tensor, " b"]) -> Int64[Tensor, ""]:
    """How many are true before the first that is not."""
    return good.long().cumprod(0).sum()


def unbeaten(
    gain: Float[Tensor, "c b"],
    numbers: Int64[Tensor, " c"],
    picks: Int64[Tensor, " p"],
    goal: Float[Tensor, " p"],
) -> Int64[Tensor, ""]:
    """How many of the first b drafts no row of `gain` beats; of a tie the lower row wins."""
    b = gain.shape[1]
    picks, goal = picks[:b], goal[:b]
    close = slack(gain.dtype) * goal.abs()
    highest = gain.amax(0)
    if ready(gain) and not bool((highest >= goal - close).any()):
        return picks.new_tensor(b)
    lower = (gain >= goal - close) & (numbers[:, None] < picks)
    return leading(~((highest > goal + close) | lower.any(0)))


def earlier(products: Float[Tensor, "... c b"]) -> Float[Tensor, "b b"]:
    """Sums over the picks before each: ones above the diagonal."""
    b = products.shape[-1]
    return products.new_ones(b, b).triu_(1)


def replay(state: Projection | Information, held: Held, products: Float[Tensor, "2 c b"]) -> Float[Tensor, "c b"]:
    """Gain of each row before each draft."""
    before = earlier(products)
    top, bottom = state.moves(*products)
    top = torch.addmm(held.top[:, None], top, before, alpha=-1)
    bottom = torch.addmm(held.bottom[:, None], bottom, before, alpha=-1).clamp_(min=state.ridge)
    return ratio(top, bottom, None if held.floor is None else held.floor[:, None])
