"""One product of all rows with the drafted columns: how many of the drafts no other row beats."""

import warnings

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from hf_gip.core.engine.linalg import on_cpu, strict_upper_ones
from hf_gip.core.engine.shortlist import Shortlist, gain_ratio, tie_slack
from hf_gip.core.engine.state import DraftBlock, ObjectiveState, RowState
from hf_gip.core.matrix import MatrixSource, iter_chunks
from hf_gip.distributed import RowPartition

CHUNK_ROWS = 2048  # rows whose gains are replayed at once on the CPU: their temporaries stay in the cache
MIN_CHUNK_ROWS = 1024  # below it a smaller chunk saves no memory worth having
BOUND_SLACK = 1e-5  # share of a gain by which a row's bound may fall short and the row still be a candidate

Products = list[tuple[slice, Tensor]]  # positions of a chunk's rows, their products a and e, (2, c, b)


def verify(
    source: MatrixSource,
    state: ObjectiveState,
    block: DraftBlock,
    drafted: Shortlist,
    buffer: Float[Tensor, " s"],
    chunk_rows: int,
    partition: RowPartition,
) -> tuple[int, float, Products, int]:
    """How many drafts no other row beats: the first at least, unless it gains nothing.

    With the first draft's plain gain, the products of all rows, and the chunk size that fitted the memory. This is the
    one place where a GPU is waited for.

    Raises:
        OutOfMemoryError: If even the smallest chunk does not fit.
    """
    drafted_rows = partition.local(drafted.numbers)
    numerators = state.numerator[drafted_rows]
    state.numerator[drafted_rows] = -torch.inf  # drafts are compared among themselves, once
    try:
        while True:
            try:
                count, products = verify_block(source, state, block, drafted, buffer, chunk_rows, partition.offset)
            except torch.OutOfMemoryError:
                if chunk_rows <= MIN_CHUNK_ROWS:
                    raise
                chunk_rows //= 2  # nothing of the state has changed
                warnings.warn(
                    f"the device is short of memory: going on with {chunk_rows:,} rows at a time.", stacklevel=3
                )
            else:
                count = partition.min_count(count, drafted.numbers)
                first_gain = drafted.state.numerator[0] / drafted.state.denominator[0]
                synced = torch.stack([count.double(), first_gain.double()]).tolist()
                return int(synced[0]), synced[1], products, chunk_rows
    finally:
        state.numerator[drafted_rows] = numerators


def verify_block(
    source: MatrixSource,
    state: ObjectiveState,
    block: DraftBlock,
    drafted: Shortlist,
    buffer: Float[Tensor, " s"],
    chunk_rows: int,
    offset: int,
) -> tuple[Int64[Tensor, ""], Products]:
    """How many drafts no row of this rank beats, and the products of its rows."""
    dtype, b, row_state = state.scale.dtype, len(block.gains), state.row_state()
    drafted = drafted[:b]
    out = buffer.new_empty(2, b, b)
    state.block_products(drafted.rows, drafted.state, block.operands(drafted.rows.dtype, dtype), out)
    pairwise_gains = gains_before_each_pick(state, drafted.state, out)
    draft_gains = pairwise_gains.diagonal().clone()
    count = torch.minimum(count_leading_true(draft_gains > state.min_gain), block.num_valid).clamp(min=1)
    count = count * (drafted.gain[0] > state.min_gain)
    bound = GainBound(draft_gains, min(chunk_rows, source.n) if on_cpu(draft_gains) else 0)  # of no use to a GPU
    draft_gains[0] = torch.inf  # it is the best row by the state itself
    done_mask = torch.ones(b, b, dtype=torch.bool, device=draft_gains.device).triu_()
    pairwise_gains.masked_fill_(done_mask, -torch.inf)
    count = torch.minimum(count, count_unbeaten(pairwise_gains, drafted.numbers, drafted.numbers, draft_gains))
    products: Products = []
    operands = block.operands(dtype if on_cpu(buffer) else source.dtype, dtype)
    for positions, rows in iter_chunks(source, chunk_rows):
        size, width = positions.stop - positions.start, live_width(count, b)
        out = buffer[2 * b * positions.start :][: 2 * width * size].view(2, size, width)
        chunk_state = row_state[positions]
        operands = operands if width == b else operands.head(width)
        state.block_products(rows.to(dtype) if on_cpu(rows) else rows, chunk_state, operands, out)
        products.append((positions, out))
        numbers = torch.arange(positions.start + offset, positions.stop + offset, device=count.device)
        unbeaten = bound.count_unbeaten(state, chunk_state, out, numbers, drafted.numbers, draft_gains)
        count = torch.minimum(count, unbeaten)
    return count, products


class GainBound:
    """Upper bounds that tell which rows can come near a draft's gain at all: few, and only they are replayed.

    Row i beats draft t if numeratorᵢ − gain_t · denominatorᵢ + Σ_{s<t} r_s > 0, where r_s = gain_t a² − Δnumerator is
    what pick s adds. The lowest draft gain so far in place of gain_t, and gain_s in r_s, only raise it. First r_s
    counts where it is positive and the lowest gain of all stands for each: one sum a row. The rows that remain get the
    sums for every t.
    """

    def __init__(self, draft_gains: Float[Tensor, " b"], chunk_rows: int) -> None:
        self.lowest_so_far = draft_gains.cummin(0).values
        self.minus_gain = BOUND_SLACK * self.lowest_so_far.abs() - self.lowest_so_far  # none is lost to rounding
        self.buffer = draft_gains.new_empty(chunk_rows * len(draft_gains))

    def count_unbeaten(
        self,
        state: ObjectiveState,
        rows: RowState,
        products: Float[Tensor, "2 c b"],
        numbers: Int64[Tensor, " c"],
        drafted: Int64[Tensor, " p"],
        draft_gains: Float[Tensor, " p"],
    ) -> Int64[Tensor, ""]:
        """How many drafts no row beats, of those that have products. A GPU replays all rows: to ask it is to wait."""
        if on_cpu(numbers):
            candidates = self.candidates_above_bound(state, rows, products)
            if not len(candidates):
                return drafted.new_tensor(products.shape[2])
            rows, products, numbers = rows[candidates], products[:, candidates], numbers[candidates]
        return count_unbeaten(gains_before_each_pick(state, rows, products), numbers, drafted, draft_gains)

    def candidates_above_bound(
        self, state: ObjectiveState, rows: RowState, products: Float[Tensor, "2 c b"]
    ) -> Int64[Tensor, " r"]:
        """Positions of the rows that may beat one of the drafts; more than do, never fewer."""
        _, size, b = products.shape
        rises = self.buffer[: size * b].view(size, b)
        state.upper_deltas(products[0], products[1], self.lowest_so_far[:b], rises)
        coarse = torch.addcmul(rows.numerator * (1 + BOUND_SLACK), rows.denominator, self.minus_gain[b - 1])
        candidates = torch.nonzero(coarse.add_(rises.relu().sum(1)) >= 0)[:, 0]
        numerator, denominator = rows.numerator[candidates], rows.denominator[candidates]
        fine = (numerator * (1 + BOUND_SLACK))[:, None] + denominator[:, None] * self.minus_gain[:b]
        return candidates[fine.addmm_(rises[candidates], strict_upper_ones(rises)).amax(1) >= 0]


def live_width(count: Int64[Tensor, ""], b: int) -> int:
    """How many drafts are still worth a product: reading a GPU's count would make it wait."""
    return int(count) if on_cpu(count) else b


def count_leading_true(flags: Bool[Tensor, " b"]) -> Int64[Tensor, ""]:
    """How many are true before the first that is not."""
    return flags.long().cumprod(0).sum()


def count_unbeaten(
    gains: Float[Tensor, "c b"],
    numbers: Int64[Tensor, " c"],
    drafted: Int64[Tensor, " p"],
    draft_gains: Float[Tensor, " p"],
) -> Int64[Tensor, ""]:
    """How many of the first b drafts no row of `gains` beats; of a tie the lower row wins."""
    b = gains.shape[1]
    drafted, draft_gains = drafted[:b], draft_gains[:b]
    slack = tie_slack(gains.dtype) * draft_gains.abs()
    highest = gains.amax(0)
    if on_cpu(gains) and not bool((highest >= draft_gains - slack).any()):
        return drafted.new_tensor(b)
    lower = (gains >= draft_gains - slack) & (numbers[:, None] < drafted)
    return count_leading_true(~((highest > draft_gains + slack) | lower.any(0)))


def gains_before_each_pick(
    state: ObjectiveState, rows: RowState, products: Float[Tensor, "2 c b"]
) -> Float[Tensor, "c b"]:
    """Gain of each row before each draft."""
    sum_before = strict_upper_ones(products)
    numerator, denominator = state.deltas(*products)
    numerator = torch.addmm(rows.numerator[:, None], numerator, sum_before, alpha=-1)
    denominator = torch.addmm(rows.denominator[:, None], denominator, sum_before, alpha=-1).clamp_(min=state.ridge)
    minimum = None if rows.min_denominator is None else rows.min_denominator[:, None]
    return gain_ratio(numerator, denominator, minimum)
