"""What the terminal shows. Rows are untrusted: no markup and no control characters of theirs reach it."""

from collections.abc import Sequence

from datasets import Dataset
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hf_gip.manifest.verify import Report

FIRST = 10
CELL = 100
COLOURS = {"ok": "green", "failed": "bold red", "not covered": "yellow"}


def console() -> Console:
    """Standard output, found when it is needed."""
    return Console(highlight=False)


def plain(value: object) -> Text:
    """A value as one line of printable text."""
    line = "".join(c if c.isprintable() else " " for c in str(value)[: 4 * CELL])
    line = " ".join(line.split())
    return Text(line if len(line) <= CELL else line[: CELL - 1] + "…")


def picks_table(subset: Dataset, columns: Sequence[str]) -> Table:
    """The first picks with their gains and the beginning of their texts."""
    selection = getattr(subset, "selection")  # noqa: B009 — set by `gip_select`, unknown to type checkers
    table = Table(title=f"First {min(FIRST, len(subset))} of {len(subset):,} picks", expand=True)
    for name, width in (("pick", 4), ("row", 8), ("gain", 9)):
        table.add_column(name, width=width, justify="right")
    table.add_column("text", ratio=1, no_wrap=True, overflow="ellipsis")
    rows = subset.select(range(min(FIRST, len(subset)))).select_columns(list(columns)).with_format(None)
    for rank, row in enumerate(rows):
        words = " · ".join(str(value) for value in dict(row).values() if value not in (None, ""))
        gain = f"{float(selection.gains[rank]):.4g}"
        table.add_row(str(rank + 1), str(int(selection.indices[rank])), gain, plain(words))
    return table


def size(count: int) -> str:
    """Bytes as people read them."""
    from rich.filesize import decimal

    return decimal(count)


def report_table(report: Report) -> Table:
    """A verification, check by check."""
    table = Table("check", "outcome", "found")
    for name, outcome, sentence in report.lines():
        table.add_row(name, Text(outcome, COLOURS[outcome]), Text(sentence))
    return table
