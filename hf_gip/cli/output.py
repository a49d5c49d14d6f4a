"""What the terminal shows. Rows are untrusted: no markup and no control characters of theirs reach it."""

import sys
import time
from collections.abc import Sequence

from datasets import Dataset, Value
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hf_gip.manifest.verify import VerificationReport

FIRST_PICKS = 10
CELL = 100  # characters
COLORS = {"ok": "green", "failed": "bold red", "not covered": "yellow"}


def show(sentence: str) -> None:
    """One line of plain text on standard output."""
    console().print(Text(sentence))


def console() -> Console:
    """Standard output, found when it is needed; of several ranks the first has the word."""
    return Console(highlight=False, quiet=not is_first_rank())


def is_first_rank() -> bool:
    """Whether this process saves and speaks for its process group, or has none."""
    if "torch" not in sys.modules:
        return True
    from torch import distributed

    return not distributed.is_initialized() or distributed.get_rank() == 0


def show_picks(subset: Dataset, started: float) -> None:
    """What was reached, and the first picks.

    Args:
        subset: With its `.selection`.
        started: When the selection began, in seconds of `time.perf_counter`.
    """
    selection = getattr(subset, "selection")  # noqa: B009 — set by the selecting function, unknown to type checkers
    captured = "" if selection.captured is None else f", {selection.captured:.1%} of what there is to capture"
    show(f"Chose {plural(len(subset), 'row')}{since(started)}: objective {selection.objective:.6g}{captured}.")
    for note in selection.record.get("notes", ()):
        show(f"Note: {note}")
    texts = [name for name, kind in subset.features.items() if isinstance(kind, Value) and kind.dtype == "string"]
    read = [name for name in selection.record["features"].get("columns") or [] if name in texts]
    if columns := read or texts[:3]:
        console().print(_picks_table(subset, columns))


def _picks_table(subset: Dataset, columns: Sequence[str]) -> Table:
    """The first picks with their gains and the beginning of their texts."""
    selection = getattr(subset, "selection")  # noqa: B009 — set by `gip_select`, unknown to type checkers
    count = min(FIRST_PICKS, len(subset))
    table = Table(title=f"First {count} of {len(subset):,} picks", expand=True)
    for name, width in (("pick", 4), ("row", 8), ("gain", 9)):
        table.add_column(name, width=width, justify="right")
    table.add_column("text", ratio=1, no_wrap=True, overflow="ellipsis")
    rows = subset.select(range(count)).select_columns(list(columns)).with_format(None)
    for rank, row in enumerate(rows):
        words = " · ".join(str(value) for value in dict(row).values() if value not in (None, ""))
        gain = f"{float(selection.gains[rank]):.4g}"
        table.add_row(str(rank + 1), str(int(selection.indices[rank])), gain, printable(words))
    return table


def report_table(report: VerificationReport) -> Table:
    """A verification, check by check."""
    table = Table("check", "outcome", "result")
    for name, outcome, sentence in report.lines():
        table.add_row(name, Text(outcome, COLORS[outcome]), Text(sentence))
    return table


def printable(value: object) -> Text:
    """A value as one line of printable text."""
    line = "".join(c if c.isprintable() else " " for c in str(value)[: 4 * CELL])
    line = " ".join(line.split())
    return Text(line if len(line) <= CELL else line[: CELL - 1] + "…")


def plural(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def since(started: float) -> str:
    """Seconds since then, for the end of a sentence."""
    return f" in {time.perf_counter() - started:.1f} s"
