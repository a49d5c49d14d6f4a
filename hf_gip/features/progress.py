"""What a user reads before and during long work: how much is to come, and about how long it takes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets.utils import tqdm

from hf_gip.distributed import rank_and_world
from hf_gip.features.per_example_gradients import PerExampleGradients
from hf_gip.features.tokenization import RowCounts, pad, read_row

ANNOUNCE_SECONDS = 10.0
SAMPLE_ROWS = 64  # whose lengths are looked at
FEWEST_BATCHES = 16  # below that the sample would be a good part of the work


@dataclass(frozen=True, slots=True)
class ProgressLabel:
    """What a user reads about a pass over rows.

    Attributes:
        text: What its progress bar is called.
        passes: How many passes like it are to come, for the estimate; 0: no estimate is shown.
    """

    text: str = "Gradients"
    passes: int = 1


def announce(
    per_example: PerExampleGradients,
    rows: Any,
    positions: Sequence[int],
    *,
    batch_size: int,
    max_length: int,
    extra: float = 0.0,
    note: str,
    passes: int = 1,
) -> float | None:
    """Say how many rows, batches and numbers are to come, and how long they should take, where that is long.

    A batch of the median length of `SAMPLE_ROWS` rows spread over the pool is computed twice; the second time is
    taken, and corrected for the mean length.

    Args:
        per_example: What will compute the gradients.
        rows: As for `gradient_features`.
        positions: Which of them are to do.
        batch_size: Rows per forward pass.
        max_length: Tokens per row at most.
        extra: Rows' worth of work besides, such as training steps.
        note: What is kept where, and what a killed run costs.
        passes: How often, at one checkpoint after another; 0: nothing is measured or shown.

    Returns:
        The estimated seconds of all passes; None where so few batches are to come that nothing was measured.

    Raises:
        ValueError: If a sampled row is not tokenized or its gradient is not finite.
    """
    batches = -(-len(positions) // batch_size)
    if batches < FEWEST_BATCHES or not passes:
        return None
    sample = [positions[i * len(positions) // SAMPLE_ROWS] for i in range(min(SAMPLE_ROWS, len(positions)))]
    tokens = [(row, read_row(rows[row], row, max_length, RowCounts())) for row in dict.fromkeys(sample)]
    by_length = sorted(((row, *each) for row, each in tokens if each is not None), key=lambda row: len(row[1]))
    if not by_length:
        return None
    first = max(0, (len(by_length) - batch_size) // 2)
    batch = pad(by_length[first : first + batch_size])
    per_example.compute(batch)
    started = time.perf_counter()
    per_example.compute(batch)
    mean_length = sum(len(input_ids) for _, input_ids, _ in by_length) / len(by_length)
    per_row = (time.perf_counter() - started) / len(batch.rows) * mean_length / batch.input_ids.shape[1]
    seconds = per_row * (len(positions) + extra) * passes
    if seconds > ANNOUNCE_SECONDS:
        at_checkpoints = f" at {passes} checkpoints" if passes > 1 else ""
        tqdm.write(
            f"hf-gip: gradients of {len(positions):,} rows in {batches:,} batches{at_checkpoints}: "
            f"{per_example.width:,} dims, {note}, about {format_seconds(seconds)} ({1 / per_row:.1f} rows/s)"
        )
    return seconds


def announce_if_long(work: str, seconds: float, note: str) -> None:
    """Say what is to come and how long it should take, where that is long; the first rank does."""
    if seconds > ANNOUNCE_SECONDS and rank_and_world()[0] == 0:
        tqdm.write(f"hf-gip: {work}: about {format_seconds(seconds)}; {note}")


def format_seconds(seconds: float) -> str:
    """A duration in minutes, or in seconds where it is short."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
