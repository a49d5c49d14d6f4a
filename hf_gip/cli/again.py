"""A saved selection with its pool again, for the commands that question it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_gip.core.selection import Selection
    from hf_gip.dataset.evidence import GipEvidence
    from hf_gip.dataset.gtp_evidence import GtpEvidence
    from hf_gip.manifest.schema import Manifest

Target = Annotated[str | None, typer.Option(help="The target again, where it was a dataset or file.")]
TargetSplit = Annotated[str, typer.Option(help="Split of the target.")]
TargetConfig = Annotated[str | None, typer.Option(help="Configuration of the target.")]
Features = Annotated[str | None, typer.Option(help="The vectors again, where they were a .npy file.")]
Encoder = Annotated[str | None, typer.Option(help="The encoder again, where it was a local folder.")]
Model = Annotated[str | None, typer.Option(help="GTP's model again, where it was a local folder.")]


def pool_again(manifest: "Manifest", source: str) -> "Dataset":
    """The pool that a subset was chosen from.

    Raises:
        ValueError: If `source` is of another size.
    """
    from hf_gip.dataset.open import open_recorded

    kept = manifest.source
    pool = open_recorded(source, split=kept.split, config=kept.config, revision=kept.revision)
    if len(pool) != kept.num_rows:
        raise ValueError(f"`--source` must be the pool of {kept.num_rows:,} rows, got {len(pool):,} rows.")
    return pool


def evidence_again(
    manifest: "Manifest", selection: "Selection", pool: "Dataset", given: dict[str, Any]
) -> "GipEvidence | GtpEvidence | None":
    """What explains the picks, from the pool, the recorded parameters and what a manifest cannot hold; None for SPICE.

    Args:
        manifest: What was recorded.
        selection: The picks.
        pool: The rows they were chosen from.
        given: The options of the command: target, target_split, target_config, features, encoder, model.
    """
    from hf_gip.cli.inputs import open_target, vectors
    from hf_gip.dataset.evidence import recorded_evidence
    from hf_gip.manifest.again_gip import recorded_options
    from hf_gip.manifest.again_gtp import recorded_gtp_options

    if manifest.method == "spice":
        return None
    target = given["target"]
    if target is not None:
        target = open_target(target, split=given["target_split"], config=given["target_config"])
    known = {
        "target": target,
        "features": None if given["features"] is None else vectors(given["features"]),
        "encoder": given["encoder"],
        "exclude": None,
        "include": selection.indices.tolist(),
    }
    if manifest.method == "gtp":
        from hf_gip.dataset.gtp_evidence import recorded_gtp_evidence

        return recorded_gtp_evidence(pool, recorded_gtp_options(manifest, known | {"model": given["model"]}))
    return recorded_evidence(pool, recorded_options(manifest, known))


def read_saved(folder: Path) -> "tuple[Manifest, Selection]":
    """The manifest and the picks of a saved folder."""
    from hf_gip.manifest.save import read_picks
    from hf_gip.manifest.schema import read_manifest

    manifest = read_manifest(folder)
    return manifest, read_picks(manifest, folder)
