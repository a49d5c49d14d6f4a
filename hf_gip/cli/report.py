"""`hf-gip report`: one self-contained page about a saved subset."""

from pathlib import Path
from typing import Annotated

import typer


def report_command(
    folder: Annotated[str, typer.Argument(help="A folder written by `hf-gip select` or `save_subset`.")],
    out: Annotated[Path, typer.Option("--out", help="Where to write the page.")] = Path("report.html"),
) -> None:
    """Write an HTML page with the gains and a searchable table of the picks; it opens without a network."""
    from rich.text import Text

    from hf_gip.cli.output import console
    from hf_gip.dataset.report import write_report
    from hf_gip.manifest.save import load_folder

    page = write_report(load_folder(folder), out)
    console().print(Text(f"Wrote {str(page)!r}."))
