"""`hf-gip compare`: saved subsets side by side, and beside random ones of the same size."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_gip.cli.again import pool_again

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_gip.core.selection import Selection
    from hf_gip.manifest.schema import Manifest


def compare_command(
    folders: Annotated[list[str], typer.Argument(help="Dataset repositories, or folders written by `hf-gip select`.")],
    source: Annotated[str, typer.Option(help="The pool all were chosen from: a file, folder or Hub id.")],
    scores: Annotated[str | None, typer.Option(help="Numeric columns to average: a,b.")] = None,
    target: Annotated[str | None, typer.Option(help="What the rows should serve: a dataset, a file, or .npy.")] = None,
    target_split: Annotated[str, typer.Option(help="Split of the target.")] = "train",
    target_config: Annotated[str | None, typer.Option(help="Configuration of the target.")] = None,
    features: Annotated[str | None, typer.Option(help="Ready vectors: a column, or a .npy file.")] = None,
    encoder: Annotated[str | None, typer.Option(help="'lexical', or a sentence-transformers id or folder.")] = None,
    groups: Annotated[str | None, typer.Option(help="A column whose values' shares are compared.")] = None,
    config_name: Annotated[str | None, typer.Option(help="Which subsets, where a place holds several.")] = None,
    split: Annotated[str | None, typer.Option(help="Which splits, where a place holds several.")] = None,
    seeds: Annotated[int, typer.Option(help="How many random subsets, at least 2.")] = 5,
    baselines: Annotated[bool, typer.Option("--baselines", help="Also top-k, longest, RDS+, k-centre, …")] = False,
    json_out: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Compare saved subsets of one pool by the same figures: overlap, captured share, breadth, scores, lengths.

    Of a place with several subsets all are compared, or those that `--config-name` and `--split` name.
    """
    from hf_gip.cli.inputs import names, open_target, vectors
    from hf_gip.cli.output import console
    from hf_gip.dataset.comparison import compare

    manifests, subsets = _gather(folders, config_name, split)
    pool = _pool(manifests, source)
    found = compare(
        subsets,
        pool,
        scores=names(scores),
        target=None if target is None else open_target(target, split=target_split, config=target_config),
        features=vectors(features) if features is not None and features.endswith(".npy") else features,
        encoder=encoder,
        groups=groups,
        seeds=seeds,
        baselines=baselines,
    )
    if json_out is not None:
        json_out.write_text(found.to_json() + "\n")
    console().print(str(found), markup=False, soft_wrap=True)


def _gather(
    folders: list[str], config_name: str | None, split: str | None
) -> "tuple[list[Manifest], dict[str, Selection]]":
    """The manifests of all places, and their picks by the places' last names, or whole ones where these are equal."""
    from hf_gip.hub.fetch import locate
    from hf_gip.manifest.save import read_picks
    from hf_gip.manifest.slots import fitting_slots

    short = len({_last(folder) for folder in folders}) == len(folders)
    manifests, subsets = [], {}
    for folder in folders:
        place, name = locate(folder, revision=None, token=None), _last(folder) if short else folder
        slots = fitting_slots(place.slots(), config_name, split)
        for slot in slots:
            manifests.append(slot.manifest)
            own = name if len(slots) == 1 else f"{name} {slot.name}"
            subsets[own] = read_picks(slot.manifest, place.folder / slot.root)
    return manifests, subsets


def _pool(manifests: "list[Manifest]", source: str) -> "Dataset":
    """The pool that all subsets were chosen from.

    Raises:
        ValueError: If they were chosen from pools of different sizes, or `source` is of another.
    """
    if len({manifest.source.num_rows for manifest in manifests}) > 1:
        sizes = ", ".join(f"{manifest.source.num_rows:,}" for manifest in manifests)
        raise ValueError(f"the subsets must come from one pool, got pools of {sizes} rows: name them by `--split`.")
    return pool_again(manifests[0], source)


def _last(folder: str) -> str:
    return Path(folder).name
