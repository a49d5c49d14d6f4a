"""Progress and time left."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasets.utils import tqdm

from hf_gip.distributed import rank_and_world
from hf_gip.features.tokenization import Tally, padded, read_row

if TYPE_CHECKING:
    from hf_gip.features.per_example_gradients import GradientReader


ANNOUNCE_SECONDS = 10.0
SAMPLE_ROWS = 64  # whose lengths are looked at
FEWEST_BATCHES = 16  # below that the sample would be a good part of the work


@dataclass(frozen=True, slots=True)
class Told:
    """What a user is told of a pass.

    Attributes:
        label: What its progress bar is called.
        passes: How many passes like it are to come, for the estimate; 0: no estimate is told.
    """

    label: str = "Gradients"
    passes: int = 1


PLAIN = Told()


def announce(
    reader: "GradientReader",
    rows: Sequence[Any],
    positions: Sequence[int],
    *,
    batch_size: int,
    max_length: int,
    extra: float = 0.0,
    note: str,
    passes: int = 1,
) -> float | None:
    """Say how many rows, batches and numbers are to come, and how long they should take, where that is long.

    A batch of the median length of `SAMPLE_ROWS` rows spread over the pool is read twice; the second reading is
    timed, and corrected for the mean length.

    Args:
        reader: What will read them.
        rows: As for `gradient_features`.
        positions: Which of them are to do.
        batch_size: Rows per forward pass.
        max_length: Tokens per row at most.
        extra: Rows' worth of work besides, such as training steps.
        note: What is kept where, and what a killed run costs.
        passes: How often, at one checkpoint after another; 0: nothing is measured or said.

    Returns:
        The estimated seconds of all passes; None where so few batches are to come that nothing was measured.

    Raises:
        ValueError: If a sampled row is not tokenised or its gradient is not finite.
    """
    batches = -(-len(positions) // batch_size)
    if batches < FEWEST_BATCHES or not passes:
        return None
    spread = [positions[i * len(positions) // SAMPLE_ROWS] for i in range(min(SAMPLE_ROWS, len(positions)))]
    read = [(row, read_row(rows[row], row, max_length, Tally())) for row in dict.fromkeys(spread)]
    ready = sorted(((row, *tokens) for row, tokens in read if tokens is not None), key=lambda one: len(one[1]))
    if not ready:
        return None
    first = max(0, (len(ready) - batch_size) // 2)
    batch = padded(ready[first : first + batch_size])
    reader.read(batch)
    began = time.perf_counter()
    reader.read(batch)
    longer = sum(len(tokens) for _, tokens, _ in ready) / len(ready) / batch.input_ids.shape[1]
    per_row = (time.perf_counter() - began) / len(batch.rows) * longer
    seconds = per_row * (len(positions) + extra) * passes
    if seconds > ANNOUNCE_SECONDS:
        where = f" at {passes} checkpoints" if passes > 1 else ""
        tqdm.write(
            f"hf-gip: gradients of {len(positions):,} rows in {batches:,} batches{where}: {reader.width:,} dims, "
            f"{note}, about {_clock(seconds)} ({1 / per_row:.1f} rows/s)"
        )
    return seconds


def say_if_long(what: str, seconds: float, note: str) -> None:
    """Say what is to come and how long it should take, where that is long; the first rank does."""
    if seconds > ANNOUNCE_SECONDS and rank_and_world()[0] == 0:
        tqdm.write(f"hf-gip: {what}: about {_clock(seconds)}; {note}")


def _clock(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
