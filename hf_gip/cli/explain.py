"""`hf-gip explain`: why a row of the pool was chosen, or which picks made it redundant."""

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


def explain_command(
    folder: Annotated[str, typer.Argument(help="A folder written by `hf-gip select` or `save_subset`.")],
    row: Annotated[int, typer.Argument(help="Position of the row in the pool.")],
    source: Annotated[str, typer.Option(help="The pool: a file, folder or Hub id.")],
    target: Target = None,
    target_split: TargetSplit = "train",
    target_config: TargetConfig = None,
    features: Features = None,
    encoder: Encoder = None,
    model: Model = None,
) -> None:
    """Say why a row was chosen or left out, recomputed from the pool and the recorded parameters."""
    given = {name: value for name, value in locals().items() if name not in ("folder", "row", "source")}
    from rich.text import Text

    from hf_gip.cli.output import console, plain
    from hf_gip.core.explain_spice import explain_pick

    manifest, selection = read_saved(Path(folder))
    pool = pool_again(manifest, source)
    evidence = evidence_again(manifest, selection, pool, given)
    found = explain_pick(selection, row) if evidence is None else evidence.explain(selection, row)
    console().print(Text(str(found)))
    texts = manifest.recipe["features"].get("columns") or manifest.columns[:3]
    for name in texts:
        console().print(Text(f"{name}: ", "bold") + plain(pool[row][name]))
