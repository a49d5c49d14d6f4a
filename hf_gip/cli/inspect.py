"""`hf-gip compare`, `explain` and `report`: what saved subsets are worth, and why."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from hf_gip.cli.options import (
    Checkpoints,
    Encoder,
    Exclude,
    ExcludeConfig,
    ExcludeSplit,
    Features,
    Model,
    SelectEncoder,
    SelectFeatures,
    SelectTarget,
    Target,
    TargetConfig,
    TargetSplit,
    check_pool,
    column_or_npy,
    open_recorded_pool,
    open_target,
    parse_list,
    read_saved,
    resupplied_inputs,
)

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_gip.manifest.reproduce import Inputs
    from hf_gip.manifest.schema import Manifest
    from hf_gip.selection import Selection


# --- compare ---------------------------------------------------------------------------------------------------------


def compare_command(
    folders: Annotated[list[str], typer.Argument(help="Dataset repositories, or folders written by `hf-gip select`.")],
    source: Annotated[str, typer.Option(help="The pool all were chosen from: a file, folder or Hub id.")],
    scores: Annotated[str | None, typer.Option(help="Numeric columns to average: a,b.")] = None,
    target: SelectTarget = None,
    target_split: TargetSplit = None,
    target_config: TargetConfig = None,
    features: SelectFeatures = None,
    columns: Annotated[
        str | None, typer.Option(help="Text columns to compare by, instead of those the subsets were chosen by: a,b.")
    ] = None,
    encoder: SelectEncoder = None,
    groups: Annotated[str | None, typer.Option(help="A column whose values' shares are compared.")] = None,
    config_name: Annotated[str | None, typer.Option(help="Which subsets, of repositories that hold several.")] = None,
    split: Annotated[str | None, typer.Option(help="Which splits, of repositories that hold several.")] = None,
    seeds: Annotated[int, typer.Option(help="How many random subsets, at least 2.")] = 5,
    baselines: Annotated[bool, typer.Option("--baselines", help="Also top-k, longest, RDS+, k-center, …")] = False,
    json_out: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Compare saved subsets of one pool by the same figures: overlap, captured share, breadth, scores, lengths.

    Of a repository with several subsets all are compared, or those that `--config-name` and `--split` name.
    """
    from hf_gip.cli.output import console
    from hf_gip.dataset.comparison import compare
    from hf_gip.io import write_text_atomically

    if json_out is not None:
        _check_file("--json", json_out, "figures.json")
    subsets = _read_subsets(folders, config_name, split)
    pool = _common_pool(subsets, source)
    texts: dict[str, Any] = {"columns": parse_list(columns)}
    if columns is None and features is None:
        texts = _recorded_texts([subset.manifest for subset in subsets.values()])
    comparison = compare(
        {name: subset.selection for name, subset in subsets.items()},
        pool,
        scores=parse_list(scores),
        target=open_target(target, split=target_split, config=target_config),
        features=column_or_npy(features),
        encoder=encoder,
        **texts,
        groups=groups,
        seeds=seeds,
        baselines=baselines,
    )
    console().print(str(comparison), markup=False, soft_wrap=True)
    if json_out is not None:
        write_text_atomically(json_out, comparison.to_json() + "\n", "free space there or choose another place")


class SavedSubset(NamedTuple):
    """A saved subset: its folder, and what is read there."""

    folder: Path
    manifest: "Manifest"
    selection: "Selection"


def _check_file(flag: str, path: Path, example: str) -> None:
    """Make the folder of a file that is written in the end, before the work.

    Raises:
        ValueError: If no file can be there.
    """
    if path.is_dir():
        raise ValueError(f"`{flag}` must be a file to write, got the folder {str(path)!r}: add a name, as {example}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"`{flag}` must be a file to write, got {str(path)!r}, whose folder cannot be made ({error.strerror})."
        ) from None


def _read_subsets(folders: list[str], config_name: str | None, split: str | None) -> dict[str, SavedSubset]:
    """The subsets of all folders by the folders' last names, or whole ones where these are equal.

    Raises:
        ValueError: If a folder is named twice.
    """
    from hf_gip.hub.load import resolve
    from hf_gip.manifest.locations import filter_locations
    from hf_gip.manifest.reader import load_selection

    paths = [Path(folder).resolve() for folder in folders]
    if twice := [folder for folder, path in zip(folders, paths, strict=True) if paths.count(path) > 1]:
        raise ValueError(f"every subset must be named once, got {twice[0]!r} twice: leave one out.")
    short = len({Path(folder).name for folder in folders}) == len(folders)
    subsets: dict[str, SavedSubset] = {}
    for folder in folders:
        published, name = resolve(folder, revision=None, token=None), Path(folder).name if short else folder
        locations = filter_locations(published.locations(), config_name, split)
        for location in locations:
            root = published.folder / location.root
            subset = SavedSubset(root, location.manifest, load_selection(location.manifest, root))
            subsets[name if len(locations) == 1 else f"{name} {location.name}"] = subset
    return subsets


def _common_pool(subsets: dict[str, SavedSubset], source: str) -> "Dataset":
    """The pool that all subsets were chosen from.

    Raises:
        ValueError: If they were chosen from pools of different sizes.
    """
    sizes = {name: subset.manifest.source.num_rows for name, subset in subsets.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} of {size:,}" for name, size in sizes.items())
        raise ValueError(
            f"the subsets must come from one pool, got pools of different sizes: {listed} rows; leave some out."
        )
    pool = open_recorded_pool(next(iter(subsets.values())).manifest, source)
    for name, subset in subsets.items():
        check_pool(subset.manifest, subset.folder, pool, name if len(subsets) > 1 else None)
    return pool


def _recorded_texts(manifests: "list[Manifest]") -> dict[str, Any]:
    """The text columns or the template that all subsets were chosen by; nothing where they differ or have none."""
    recipes = [
        {name: features.get(name) for name in (["template"] if features.get("template") else ["columns"])}
        for features in (manifest.recipe["features"] for manifest in manifests)
        if features.get("kind") == "text" or "tokenizer" in features  # tokens and vectors have no text
    ]
    return recipes[0] if recipes and all(recipe == recipes[0] for recipe in recipes) else {}


# --- explain ---------------------------------------------------------------------------------------------------------


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
    arguments = locals()
    from rich.text import Text

    from hf_gip.cli.output import console, printable, show

    manifest, selection = read_saved(Path(folder))
    pool = open_recorded_pool(manifest, source)
    check_pool(manifest, Path(folder), pool)
    show(str(_explain(manifest, selection, pool, row, resupplied_inputs(manifest, arguments))))
    for name in manifest.recipe["features"].get("columns") or manifest.columns[:3]:
        console().print(Text(f"{name}: ", "bold") + printable(pool[row][name]))


def _explain(manifest: "Manifest", selection: "Selection", pool: "Dataset", row: int, inputs: "Inputs") -> object:
    """The explanation by the method that chose."""
    from hf_gip.core.explain import explain_spice_pick
    from hf_gip.manifest.reproduce import recorded_context

    if manifest.method == "spice" and (
        row in selection.indices.tolist() or manifest.parameters["update_every"] is not None
    ):
        return explain_spice_pick(selection, row)  # needs no gradient, or one that is gone
    return recorded_context(manifest, pool, inputs, selection.indices.tolist()).explain(selection, row)


# --- report ----------------------------------------------------------------------------------------------------------


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
    encoder are passed again; that of one chosen by `spice` or `gtp` stays the same.
    """
    options = {name: value for name, value in locals().items() if name not in ("folder", "out", "source")}
    from hf_gip.cli.output import show
    from hf_gip.dataset.report import write_report
    from hf_gip.manifest.reader import load_folder
    from hf_gip.manifest.training_run import RUN, write_run_page

    _check_file("--out", out, "report.html")
    if source is None:
        _refuse(options, "only a page with the pool, `source`, takes it")
        page = write_run_page(folder, out) if (Path(folder) / RUN).exists() else write_report(load_folder(folder), out)
    else:
        page = _write_with_pool(Path(folder), source, options, out)
    show(f"Wrote {str(page)!r}.")


def _write_with_pool(folder: Path, source: str, options: dict[str, Any], out: Path) -> Path:
    """The page with all that the pool can add; of SPICE and GTP these are the rows alone."""
    from hf_gip.dataset.report import write_report
    from hf_gip.manifest.reproduce import recorded_context

    manifest, selection = read_saved(folder)
    pool = open_recorded_pool(manifest, source)
    check_pool(manifest, folder, pool)
    if manifest.method == "gip":
        inputs = resupplied_inputs(manifest, options)
        return recorded_context(manifest, pool, inputs, selection.indices.tolist()).report(selection, out)
    _refuse(options, f"a page about rows chosen by {manifest.method} does not use it")
    rows = pool.select(selection.indices.numpy())
    setattr(rows, "selection", selection)  # noqa: B010 — an attribute of this instance
    return write_report(rows, out)


def _refuse(options: dict[str, Any], reason: str) -> None:
    """Refuse every option that was given.

    Raises:
        ValueError: If one was; it says the `reason`.
    """
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"`{name}` must be left out, got {value!r}: {reason}.")
