"""`hf-gip report`: one self-contained page about a saved subset, or about the selections of a training run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_gip.cli.again import (
    Encoder,
    Exclude,
    ExcludeConfig,
    ExcludeSplit,
    Features,
    Target,
    TargetConfig,
    TargetSplit,
    given_again,
    pool_again,
    read_saved,
)

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_gip.manifest.schema import Manifest
    from hf_gip.selection import Selection


def report_command(
    folder: Annotated[str, typer.Argument(help="A folder written by `hf-gip select`, or a run's output_dir.")],
    out: Annotated[Path, typer.Option("--out", help="Where to write the page.")] = Path("report.html"),
    source: Annotated[
        str | None,
        typer.Option(
            help="The pool: of a subset chosen by `select` for its map, random subsets, and what each pick serves and "
            "repeats; of any for the rows, where they were not saved."
        ),
    ] = None,
    target: Target = None,
    target_split: TargetSplit = None,
    target_config: TargetConfig = None,
    exclude: Exclude = None,
    exclude_split: ExcludeSplit = None,
    exclude_config: ExcludeConfig = None,
    features: Features = None,
    encoder: Encoder = None,
) -> None:
    """Write an HTML page with the gains and a searchable table of the picks; it opens without a network.

    With the pool, the page of a subset chosen by `hf-gip select` shows more, for which a target, vectors or an
    encoder are given again; that of one chosen by `spice` or `gtp` stays the same.
    """
    options = {name: value for name, value in locals().items() if name not in ("folder", "out", "source")}
    from rich.text import Text

    from hf_gip.cli.output import console
    from hf_gip.dataset.report import write_report
    from hf_gip.manifest.given import check_needless
    from hf_gip.manifest.run import RUN
    from hf_gip.manifest.save import load_folder
    from hf_gip.page.run import write_run_page

    if source is None:
        for name, value in options.items():
            check_needless(name, value, "only a page with the pool, `source`, takes it")
    if source is not None:
        manifest, selection = read_saved(Path(folder))
        page = _with_pool(manifest, selection, pool_again(manifest, Path(folder), source), options, out)
    elif (Path(folder) / RUN).exists():
        page = write_run_page(folder, out)
    else:
        page = write_report(load_folder(folder), out)
    console().print(Text(f"Wrote {str(page)!r}."))


def _with_pool(
    manifest: "Manifest", selection: "Selection", pool: "Dataset", options: dict[str, Any], out: Path
) -> Path:
    """The page with all that the pool can add; of SPICE and GTP these are the rows alone."""
    from hf_gip.dataset.evidence import recorded_evidence
    from hf_gip.dataset.report import write_report
    from hf_gip.manifest.again_gip import recorded_options
    from hf_gip.manifest.given import check_needless

    if manifest.method == "gip":
        given = given_again(manifest, selection, options)
        return recorded_evidence(pool, recorded_options(manifest, given)).report(selection, out)
    for name, value in options.items():
        check_needless(name, value, f"a page about rows chosen by {manifest.method} does not use it")
    rows = pool.select(selection.indices.numpy())
    setattr(rows, "selection", selection)  # noqa: B010 — an attribute of this instance
    return write_report(rows, out)
