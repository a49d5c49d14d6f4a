"""`hf-gip compare`, `explain` and `report`."""

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
    Target,
    TargetConfig,
    TargetSplit,
    given_again,
    open_pool,
    pool_again,
    read_saved,
)

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
    from hf_gip.cli.options import names, open_target, vectors
    from hf_gip.cli.output import console
    from hf_gip.dataset.comparison import compare
    from hf_gip.io import write_text_atomically

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
        write_text_atomically(json_out, found.to_json() + "\n", "free space there or choose another place")


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
    from hf_gip.hub.load import locate
    from hf_gip.manifest.locations import fitting_slots
    from hf_gip.manifest.reader import read_picks

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
    from hf_gip.manifest.verify import check_chosen

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
        from hf_gip.dataset.gradient_trajectories import plan_trajectories
        from hf_gip.dataset.gtp import GtpContext
        from hf_gip.manifest.reproduce import recorded_gtp_call

        return GtpContext(plan_trajectories(pool, *recorded_gtp_call(manifest, given))).explain(selection, row)
    if manifest.method == "spice":
        from hf_gip.core.explain import explain_spice_pick
        from hf_gip.dataset.options import SpiceOptions
        from hf_gip.dataset.spice import SpiceContext
        from hf_gip.features.proxy import resolve_model
        from hf_gip.manifest.reproduce import recorded_proxy

        if row in selection.indices.tolist() or manifest.parameters["update_every"] is not None:
            return explain_spice_pick(selection, row)  # needs no gradient, or one that is gone
        model, tokenizer = recorded_proxy(manifest, given)
        options = SpiceOptions.from_record(manifest.parameters, manifest.recipe)
        proxy = resolve_model(model, tokenizer, device=str(options.device))
        return SpiceContext(pool, proxy, options).explain(selection, row)
    if manifest.method != "gip":
        raise ValueError(
            f"`explain` knows rows chosen by gip, spice or gtp, got a subset chosen by {manifest.method!r}."
        )
    from hf_gip.dataset.evidence import recorded_evidence
    from hf_gip.manifest.reproduce import recorded_options

    return recorded_evidence(pool, recorded_options(manifest, given)).explain(selection, row)


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
    from hf_gip.manifest.reader import load_folder
    from hf_gip.manifest.reproduce import check_needless
    from hf_gip.manifest.training_run import RUN, write_run_page

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
    from hf_gip.manifest.reproduce import check_needless, recorded_options

    if manifest.method == "gip":
        given = given_again(manifest, selection, options)
        return recorded_evidence(pool, recorded_options(manifest, given)).report(selection, out)
    for name, value in options.items():
        check_needless(name, value, f"a page about rows chosen by {manifest.method} does not use it")
    rows = pool.select(selection.indices.numpy())
    setattr(rows, "selection", selection)  # noqa: B010 — an attribute of this instance
    return write_report(rows, out)
