"""A saved selection with its pool again, for the commands that question it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_gip.manifest.schema import Manifest
    from hf_gip.selection import Selection

Target = Annotated[str | None, typer.Option(help="The target again, where it was a dataset or file.")]
TargetSplit = Annotated[str | None, typer.Option(help="Split of the target; train, where it has splits.")]
TargetConfig = Annotated[str | None, typer.Option(help="Configuration of the target.")]
Exclude = Annotated[str | None, typer.Option(help="What was stayed away from again, a dataset or file.")]
ExcludeSplit = Annotated[str | None, typer.Option(help="Its split; test, where it has splits.")]
ExcludeConfig = Annotated[str | None, typer.Option(help="Its configuration.")]
Features = Annotated[str | None, typer.Option(help="The vectors again, where they were a .npy file.")]
Encoder = Annotated[str | None, typer.Option(help="The encoder again, where it was a local folder.")]
Model = Annotated[str | None, typer.Option(help="The model again, where it was a local folder.")]
Checkpoints = Annotated[
    list[str] | None, typer.Option("--checkpoint", help="GTP's checkpoint folders again; repeat it.")
]


def open_pool(manifest: "Manifest", source: str) -> "Dataset":
    """The pool that a subset was chosen from, by the name given.

    Raises:
        ValueError: If `source` is of another size.
    """
    from hf_gip.dataset.open import open_recorded

    kept = manifest.source
    pool = open_recorded(source, split=kept.split, config=kept.config, revision=kept.revision)
    if len(pool) != kept.num_rows:
        raise ValueError(f"`--source` must be the pool of {kept.num_rows:,} rows, got {len(pool):,} rows.")
    return pool


def pool_again(manifest: "Manifest", folder: Path, source: str) -> "Dataset":
    """The pool that the subset in `folder` was chosen from, its chosen rows compared with their hashes."""
    from hf_gip.manifest.check_source import check_chosen

    pool = open_pool(manifest, source)
    check_chosen(manifest, folder, pool)
    return pool


def given_again(manifest: "Manifest", selection: "Selection", options: dict[str, Any]) -> dict[str, Any]:
    """What a manifest cannot hold, from the options that name it.

    Args:
        manifest: What was recorded.
        selection: The picks.
        options: Of the command, by their names here.
    """
    from hf_gip.cli.inputs import open_excluded, open_target, vectors
    from hf_gip.manifest.given import check_taken

    names = ("target", "exclude", "features", "encoder", "model", "checkpoints")
    given: dict[str, Any] = {name: options.get(name) or None for name in names}
    check_taken(manifest.method, given)
    for name, read in (("target", open_target), ("exclude", open_excluded)):
        place = {option: options[f"{name}_{option}"] for option in ("split", "config")}
        given[name] = read(given[name], **place)
    if given["features"] is not None:
        given["features"] = vectors(given["features"])
    return {**given, "include": selection.indices.tolist()}


def read_saved(folder: Path) -> "tuple[Manifest, Selection]":
    """The manifest and the picks of a saved folder.

    Raises:
        FileNotFoundError: If there is none.
    """
    from hf_gip.manifest.run import no_subset
    from hf_gip.manifest.save import read_picks
    from hf_gip.manifest.schema import MANIFEST_PATH, read_manifest

    if not (folder / MANIFEST_PATH).exists() and (told := no_subset(folder)) is not None:
        raise FileNotFoundError(told)
    manifest = read_manifest(folder)
    return manifest, read_picks(manifest, folder)
