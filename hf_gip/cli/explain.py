"""`hf-gip explain`: why a row of the pool was chosen, or which picks made it redundant."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_gip.cli.again import (
    Checkpoints,
    Encoder,
    Exclude,
    ExcludeConfig,
    ExcludeSplit,
    Features,
    Model,
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


def explain_command(
    folder: Annotated[str, typer.Argument(help="A folder written by `hf-gip select` or `save_subset`.")],
    row: Annotated[int, typer.Argument(help="Position of the row in the pool.")],
    source: Annotated[str, typer.Option(help="The pool: a file, folder or Hub id.")],
    target: Target = None,
    target_split: TargetSplit = None,
    target_config: TargetConfig = None,
    exclude: Exclude = None,
    exclude_split: ExcludeSplit = None,
    exclude_config: ExcludeConfig = None,
    features: Features = None,
    encoder: Encoder = None,
    model: Model = None,
    checkpoints: Checkpoints = None,
) -> None:
    """Say why a row was chosen or left out, recomputed from the pool and the recorded parameters."""
    options = {name: value for name, value in locals().items() if name not in ("folder", "row", "source")}
    from rich.text import Text

    from hf_gip.cli.output import console, plain

    manifest, selection = read_saved(Path(folder))
    pool = pool_again(manifest, Path(folder), source)
    found = _explained(manifest, selection, pool, row, given_again(manifest, selection, options))
    console().print(Text(str(found)))
    texts = manifest.recipe["features"].get("columns") or manifest.columns[:3]
    for name in texts:
        console().print(Text(f"{name}: ", "bold") + plain(pool[row][name]))


def _explained(
    manifest: "Manifest", selection: "Selection", pool: "Dataset", row: int, given: dict[str, Any]
) -> object:
    """The explanation by the method that chose.

    Raises:
        ValueError: If that cannot be repeated.
    """
    if manifest.method == "gtp":
        from hf_gip.dataset.gtp_evidence import recorded_gtp_evidence
        from hf_gip.manifest.again_gtp import recorded_gtp_options

        return recorded_gtp_evidence(pool, recorded_gtp_options(manifest, given)).explain(selection, row)
    if manifest.method == "spice":
        from hf_gip.core.explain import explain_spice_pick
        from hf_gip.dataset.spice_evidence import recorded_spice_evidence
        from hf_gip.manifest.again_spice import recorded_spice_options

        if row in selection.indices.tolist() or manifest.parameters["update_every"] is not None:
            return explain_spice_pick(selection, row)  # needs no gradient, or one that is gone
        return recorded_spice_evidence(pool, recorded_spice_options(manifest, given)).explain(selection, row)
    if manifest.method != "gip":
        raise ValueError(
            f"`explain` knows rows chosen by gip, spice or gtp, got a subset chosen by {manifest.method!r}."
        )
    from hf_gip.dataset.evidence import recorded_evidence
    from hf_gip.manifest.again_gip import recorded_options

    return recorded_evidence(pool, recorded_options(manifest, given)).explain(selection, row)
