"""`hf-gip compare`: saved subsets side by side, and beside random ones of the same size."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from hf_gip.cli.again import open_pool

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_gip.manifest.schema import Manifest
    from hf_gip.selection import Selection


def compare_command(
    folders: Annotated[list[str], typer.Argument(help="Dataset repositories, or folders written by `hf-gip select`.")],
    source: Annotated[str, typer.Option(help="The pool all were chosen from: a file, folder or Hub id.")],
    scores: Annotated[str | None, typer.Option(help="Numeric columns to average: a,b.")] = None,
    target: Annotated[str | None, typer.Option(help="What the rows should serve: a dataset, a file, or .npy.")] = None,
    target_split: Annotated[str | None, typer.Option(help="Split of the target; train, where it has splits.")] = None,
    target_config: Annotated[str | None, typer.Option(help="Configuration of the target.")] = None,
    features: Annotated[str | None, typer.Option(help="Ready vectors: a column, or a .npy file.")] = None,
    columns: Annotated[
        str | None, typer.Option(help="Text columns to judge by, instead of those the subsets were chosen by: a,b.")
    ] = None,
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
    from hf_gip.disk import write_whole

    _check_json(json_out)
    subsets = _gather(folders, config_name, split)
    pool = _pool(subsets, source)
    texts: dict[str, Any] = {"columns": names(columns)}
    if columns is None and features is None:
        texts = _recorded_texts([subset.manifest for subset in subsets.values()])
    found = compare(
        {name: subset.picks for name, subset in subsets.items()},
        pool,
        scores=names(scores),
        target=open_target(target, split=target_split, config=target_config),
        features=vectors(features) if features is not None and features.endswith(".npy") else features,
        encoder=encoder,
        **texts,
        groups=groups,
        seeds=seeds,
        baselines=baselines,
    )
    console().print(str(found), markup=False, soft_wrap=True)
    if json_out is not None:
        write_whole(json_out, found.to_json() + "\n", "free space there or choose another place")


class Saved(NamedTuple):
    """A saved subset: where it is, and what is read there."""

    folder: Path
    manifest: "Manifest"
    picks: "Selection"


def _check_json(path: Path | None) -> None:
    """Make the folder of a file that is written in the end, before the work.

    Raises:
        ValueError: If no file can be there.
    """
    if path is None:
        return
    if path.is_dir():
        raise ValueError(
            f"`--json` must be a file to write, got the folder {str(path)!r}: add a name, as figures.json."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"`--json` must be a file to write, got {str(path)!r}, whose folder cannot be made ({error.strerror})."
        ) from None


def _gather(folders: list[str], config_name: str | None, split: str | None) -> dict[str, Saved]:
    """The subsets of all places by the places' last names, or whole ones where these are equal.

    Raises:
        ValueError: If a place is named twice.
    """
    from hf_gip.hub.fetch import locate
    from hf_gip.manifest.save import read_picks
    from hf_gip.manifest.slots import fitting_slots

    places = [str(Path(folder).resolve()) for folder in folders]
    if twice := [folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1]:
        raise ValueError(f"every subset must be named once, got {twice[0]!r} twice: leave one out.")
    short = len({_last(folder) for folder in folders}) == len(folders)
    subsets: dict[str, Saved] = {}
    for folder in folders:
        place, name = locate(folder, revision=None, token=None), _last(folder) if short else folder
        slots = fitting_slots(place.slots(), config_name, split)
        for slot in slots:
            own = name if len(slots) == 1 else f"{name} {slot.name}"
            root = place.folder / slot.root
            subsets[own] = Saved(root, slot.manifest, read_picks(slot.manifest, root))
    return subsets


def _pool(subsets: dict[str, Saved], source: str) -> "Dataset":
    """The pool that all subsets were chosen from.

    Raises:
        ValueError: If they were chosen from pools of different sizes.
    """
    from hf_gip.manifest.check_source import check_chosen

    sizes = {name: subset.manifest.source.num_rows for name, subset in subsets.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} of {size:,}" for name, size in sizes.items())
        raise ValueError(
            f"the subsets must come from one pool, got pools of different sizes: {listed} rows; leave some out."
        )
    pool = open_pool(next(iter(subsets.values())).manifest, source)
    for name, subset in subsets.items():
        check_chosen(subset.manifest, subset.folder, pool, name if len(subsets) > 1 else None)
    return pool


def _recorded_texts(manifests: "list[Manifest]") -> dict[str, Any]:
    """The text columns or the template that all subsets were chosen by; nothing where they differ or have none."""
    found = [
        {name: features.get(name) for name in (["template"] if features.get("template") else ["columns"])}
        for features in (manifest.recipe["features"] for manifest in manifests)
        if features.get("kind") == "text" or "tokenizer" in features  # tokens and vectors have no text
    ]
    return found[0] if found and all(each == found[0] for each in found) else {}


def _last(folder: str) -> str:
    return Path(folder).name
