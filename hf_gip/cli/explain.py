"""`hf-gip explain`: why a row of the pool was chosen, or which picks made it redundant."""

from pathlib import Path
from typing import Annotated

import typer


def explain_command(
    folder: Annotated[str, typer.Argument(help="A folder written by `hf-gip select` or `save_subset`.")],
    row: Annotated[int, typer.Argument(help="Position of the row in the pool.")],
    source: Annotated[str, typer.Option(help="The pool: a file, folder or Hub id.")],
    target: Annotated[str | None, typer.Option(help="The target again, where it was a dataset or file.")] = None,
    target_split: Annotated[str, typer.Option(help="Split of the target.")] = "train",
    target_config: Annotated[str | None, typer.Option(help="Configuration of the target.")] = None,
    features: Annotated[str | None, typer.Option(help="The vectors again, where they were a .npy file.")] = None,
    encoder: Annotated[str | None, typer.Option(help="The encoder again, where it was a local folder.")] = None,
    model: Annotated[str | None, typer.Option(help="GTP's model again, where it was a local folder.")] = None,
) -> None:
    """Say why a row was chosen or left out, recomputed from the pool and the recorded parameters."""
    from rich.text import Text

    from hf_gip.cli.inputs import open_target, vectors
    from hf_gip.cli.output import console, plain
    from hf_gip.core.explain_spice import explain_pick
    from hf_gip.dataset.evidence import recorded_evidence
    from hf_gip.dataset.open import open_dataset
    from hf_gip.manifest.again_gip import recorded_options
    from hf_gip.manifest.again_gtp import recorded_gtp_options
    from hf_gip.manifest.save import read_picks
    from hf_gip.manifest.schema import read_manifest

    manifest = read_manifest(Path(folder))
    selection = read_picks(manifest, Path(folder))
    kept = manifest.source
    pool = open_dataset(source, split=kept.split or "train", config=kept.config, revision=kept.revision)
    given = {
        "target": None if target is None else open_target(target, split=target_split, config=target_config),
        "features": None if features is None else vectors(features),
        "encoder": encoder,
        "exclude": None,
        "include": selection.indices.tolist(),
    }
    if manifest.method == "spice":
        found = explain_pick(selection, row)
    elif manifest.method == "gtp":
        from hf_gip.dataset.gtp_evidence import recorded_gtp_evidence

        options = recorded_gtp_options(manifest, given | {"model": model})
        found = recorded_gtp_evidence(pool, options).explain(selection, row)
    else:
        found = recorded_evidence(pool, recorded_options(manifest, given)).explain(selection, row)
    console().print(Text(str(found)))
    texts = manifest.recipe["features"].get("columns") or manifest.columns[:3]
    for name in texts:
        console().print(Text(f"{name}: ", "bold") + plain(pool[row][name]))
