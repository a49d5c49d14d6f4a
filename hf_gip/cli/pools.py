"""What the selecting commands share: options of the pool and of the result, reading the one, saving the other."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from datasets import Dataset
    from rich.console import Console

Source = Annotated[str, typer.Argument(help="A Hub id, a .parquet, .jsonl, .csv … file, or a save_to_disk folder.")]
K = Annotated[int, typer.Option("--k", help="How many rows to choose.")]
Out = Annotated[Path, typer.Option("--out", help="A new or empty folder for the result.")]
TextColumns = Annotated[str | None, typer.Option(help="Text columns, instead of the detected ones: a,b.")]
IdColumn = Annotated[str | None, typer.Option(help="A column that names the rows.")]
Split = Annotated[str, typer.Option(help="Split of the source.")]
Config = Annotated[str | None, typer.Option(help="Configuration of the source.")]
Revision = Annotated[str | None, typer.Option(help="Revision of the source on the Hub.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, …; a GPU where there is one.")]
Rows = Annotated[bool, typer.Option("--rows/--no-rows", help="Save the rows, or positions and hashes only.")]
Proxy = Annotated[
    str, typer.Option(help="The model whose gradients are taken: a Hub id or a folder; a small one will do.")
]


def read_pool(
    source: str, terminal: "Console", *, split: str, config: str | None, revision: str | None = None
) -> "Dataset":
    """The pool, and a line that says what was read."""
    from rich.text import Text

    from hf_gip.dataset.open import open_dataset

    started = time.perf_counter()
    pool = open_dataset(source, split=split, config=config, revision=revision)
    shape = f"{plural(len(pool), 'row')} of {plural(len(pool.column_names), 'column')}"
    terminal.print(Text(f"Read {shape} from {Path(source).name!r}{since(started)}."))
    return pool


def save_and_tell(subset: "Dataset", out: Path, terminal: "Console", *, rows: bool) -> None:
    """Save the subset, and a line that says where."""
    from rich.text import Text

    from hf_gip.cli.output import size
    from hf_gip.manifest.save import save_subset

    started = time.perf_counter()
    manifest = save_subset(subset, out, include_rows=rows)
    written = size(sum(entry.size for entry in manifest.files.values()))
    terminal.print(Text(f"Saved {written} to {str(out)!r}{since(started)}: check it with `hf-gip verify`."))


def show_picks(subset: "Dataset", started: float, terminal: "Console") -> None:
    """What was reached, and the first picks."""
    from hf_gip.cli.output import picks_table

    selection = getattr(subset, "selection")  # noqa: B009 — set by the selecting function, unknown to type checkers
    share = "" if selection.captured is None else f", {selection.captured:.1%} of what there is to capture"
    terminal.print(f"Chose {plural(len(subset), 'row')}{since(started)}: objective {selection.objective:.6g}{share}.")
    for note in selection.record.get("notes", ()):
        terminal.print(f"Note: {note}")
    named = selection.record["features"].get("columns") or []
    texts = [name for name in named if name in _text_columns(subset)] or _text_columns(subset)
    if texts:
        terminal.print(picks_table(subset, texts))


def _text_columns(subset: "Dataset") -> list[str]:
    """Columns of strings, three at most."""
    from datasets import Value

    return [name for name, kind in subset.features.items() if isinstance(kind, Value) and kind.dtype == "string"][:3]


def plural(count: int, thing: str) -> str:
    """A count with its noun."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def since(started: float) -> str:
    """Seconds since then, for the end of a sentence."""
    return f" in {time.perf_counter() - started:.1f} s"
