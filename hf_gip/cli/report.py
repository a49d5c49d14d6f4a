"""`hf-gip report`: one self-contained page about a saved subset, or about the selections of a training run."""

from pathlib import Path
from typing import Annotated

import typer

from hf_gip.cli.again import (
    Encoder,
    Features,
    Model,
    Target,
    TargetConfig,
    TargetSplit,
    evidence_again,
    pool_again,
    read_saved,
)


def report_command(
    folder: Annotated[str, typer.Argument(help="A folder written by `hf-gip select`, or a run's output_dir.")],
    out: Annotated[Path, typer.Option("--out", help="Where to write the page.")] = Path("report.html"),
    source: Annotated[
        str | None, typer.Option(help="The pool, for its map, random subsets, and what each pick serves and repeats.")
    ] = None,
    target: Target = None,
    target_split: TargetSplit = "train",
    target_config: TargetConfig = None,
    features: Features = None,
    encoder: Encoder = None,
    model: Model = None,
) -> None:
    """Write an HTML page with the gains and a searchable table of the picks; it opens without a network."""
    given = {name: value for name, value in locals().items() if name not in ("folder", "out", "source")}
    from rich.text import Text

    from hf_gip.cli.output import console
    from hf_gip.dataset.report import write_report
    from hf_gip.manifest.run import RUN
    from hf_gip.manifest.save import load_folder
    from hf_gip.page.run import write_run_page

    evidence = selection = None
    if source is not None:
        manifest, selection = read_saved(Path(folder))
        evidence = evidence_again(manifest, selection, pool_again(manifest, source), given)
    if evidence is not None and selection is not None:
        page = evidence.report(selection, out)
    elif (Path(folder) / RUN).exists():
        page = write_run_page(folder, out)
    else:
        page = write_report(load_folder(folder), out)
    console().print(Text(f"Wrote {str(page)!r}."))
