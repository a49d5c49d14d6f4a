"""Options that commands share, and how their values are read."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from datasets import Dataset

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from hf_gip.manifest.schema import Manifest
    from hf_gip.selection import Selection


Number = TypeVar("Number", int, float)


def names(listed: str | None) -> list[str] | None:
    """`"a,b"` as a list."""
    return None if listed is None else [name.strip() for name in listed.split(",") if name.strip()]


def weighed(listed: str | None) -> list[str] | dict[str, float] | None:
    """`"a,b"` as a list, `"a=2,b"` as weights (1 where none is given).

    Raises:
        ValueError: If a weight is no number.
    """
    found = names(listed)
    if found is None or not any("=" in name for name in found):
        return found
    return {name: _number(weight or "1", float) for name, _, weight in (entry.partition("=") for entry in found)}


def quotas(listed: str | None) -> int | dict[str, int] | None:
    """`"50"` as one number for all groups, `"forum=50,wiki=20"` as one by group.

    Raises:
        ValueError: If a quota is no whole number.
    """
    found = names(listed)
    if found is None or (len(found) == 1 and "=" not in found[0]):
        return None if found is None else _number(found[0], int)
    return {name: _number(count, int) for name, _, count in (entry.rpartition("=") for entry in found)}


def numbers(listed: str | None) -> list[float] | None:
    """`"1e-5,5e-6"` as numbers.

    Raises:
        ValueError: If one is no number.
    """
    found = names(listed)
    try:
        return None if found is None else [float(rate) for rate in found]
    except ValueError:
        raise ValueError(f"`learning_rates` must be numbers such as 1e-5,5e-6, got {listed!r}.") from None


def _number(text: str, kind: Callable[[str], Number]) -> Number:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"weights and quotas must be numbers such as 50 or forum=50,wiki=20, got {text!r}.") from None


def vectors(path: str) -> "np.ndarray":
    """A matrix saved by `numpy.save`, read in place.

    Raises:
        ValueError: If the file cannot be read.
    """
    import numpy as np

    if not Path(path).is_file():
        raise ValueError(f"no file {path!r}: check the path.")
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)  # "c": torch wants writable pages
    except Exception as error:  # numpy's header parser raises many kinds
        raise ValueError(f"cannot read {Path(path).name!r} as a matrix: {error}") from None


def open_target(name: str | None, *, split: str | None, config: str | None) -> "Dataset | np.ndarray | None":
    """A target by name: a `.npy` matrix, or a split, by default train, of anything `open_dataset` reads."""
    return _open("target", name, split=split, config=config)


def open_target_rows(name: str | None, *, split: str | None, config: str | None) -> "Dataset | None":
    """A target of rows by name, where vectors do not do.

    Raises:
        ValueError: If it is a `.npy` matrix.
    """
    if name is not None and name.endswith(".npy"):
        raise ValueError(
            f"`target` must be a dataset or a file of rows, whose gradients are taken, got the matrix {name!r}: give "
            "the rows."
        )
    rows = _open("target", name, split=split, config=config)
    return rows if isinstance(rows, Dataset) else None


def open_excluded(name: str | None, *, split: str | None, config: str | None) -> "Dataset | np.ndarray | None":
    """What to stay away from, likewise: by default the test split, where there are splits."""
    return _open("exclude", name, split=split, config=config)


def _open(argument: str, name: str | None, *, split: str | None, config: str | None) -> "Dataset | np.ndarray | None":
    """What `argument` names; None where it is left out.

    Raises:
        ValueError: If a split or configuration is named of nothing, or of a matrix.
    """
    from hf_gip.dataset.loading import has_splits, open_dataset

    matrix = name is not None and name.endswith(".npy")
    if name is None or matrix:
        why = f"a matrix such as {Path(name).name!r} has none" if name else f"it goes with `{argument}`, got none"
        for option, value in (("split", split), ("config", config)):
            if value is not None:
                raise ValueError(f"`{argument}_{option}` must be left out, got {value!r}: {why}.")
        return None if name is None else vectors(name)
    split = split or ("test" if argument == "exclude" and has_splits(name) else "train")
    return open_dataset(name, split=split, config=config, prefix=f"{argument}_")


def check_counts(**options: int | None) -> None:
    """Raise unless every option that was given is a whole number of at least 1.

    Raises:
        ValueError: If one is not.
    """
    from hf_gip.core.validation import check_int

    for name, value in options.items():
        if value is not None:
            check_int(name, value)


Source = Annotated[str, typer.Argument(help="A Hub id, a .parquet, .jsonl, .csv … file, or a save_to_disk folder.")]
K = Annotated[int, typer.Option("--k", help="How many rows to choose.")]
Out = Annotated[Path, typer.Option("--out", help="A new or empty folder for the result.")]
TextColumns = Annotated[str | None, typer.Option(help="Text columns, instead of the detected ones: a,b.")]
IdColumn = Annotated[str | None, typer.Option(help="A column that names the rows.")]
Split = Annotated[str, typer.Option(help="Split of the source.")]
Config = Annotated[str | None, typer.Option(help="Configuration of the source.")]
Revision = Annotated[str | None, typer.Option(help="Revision of the source on the Hub.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, …; a GPU where there is one.")]
Rows = Annotated[
    bool, typer.Option("--include-rows/--no-include-rows", help="Save the rows, or positions and hashes only.")
]
Proxy = Annotated[
    str, typer.Option(help="The model whose gradients are taken: a Hub id or a folder; a small one will do.")
]


def read_pool(
    source: str, terminal: "Console", *, split: str, config: str | None, revision: str | None = None
) -> "Dataset":
    """The pool, and a line that says what was read."""
    from rich.text import Text

    from hf_gip.dataset.loading import open_dataset

    started = time.perf_counter()
    pool = open_dataset(source, split=split, config=config, revision=revision)
    shape = f"{plural(len(pool), 'row')} of {plural(len(pool.column_names), 'column')}"
    terminal.print(Text(f"Read {shape} from {Path(source).name!r}{since(started)}."))
    return pool


def save_and_tell(subset: "Dataset", out: Path, terminal: "Console", *, rows: bool) -> None:
    """Save the subset, and a line that says where."""
    from rich.text import Text

    from hf_gip.cli.output import size
    from hf_gip.manifest.writer import save_subset

    started = time.perf_counter()
    manifest = save_subset(subset, out, include_rows=rows)
    written = size(sum(entry.size for entry in manifest.files.values()))
    terminal.print(Text(f"Saved {written} to {str(out)!r}{since(started)}: check it with `hf-gip verify`."))


def show_picks(subset: "Dataset", started: float, terminal: "Console") -> None:
    """What was reached, and the first picks."""
    from hf_gip.cli.output import picks_table

    selection = getattr(subset, "selection")  # noqa: B009 — set by the selecting function, unknown to type checkers
    share = "" if selection.captured is None else f", {selection.captured:.1%} of what there is to capture"
    terminal.print(f"Chose {plural(len(subset), 'row')}{since(started)}: objective {selection.objective:.6g}{share}.")
    for note in selection.record.get("notes", ()):
        terminal.print(f"Note: {note}")
    named = selection.record["features"].get("columns") or []
    texts = [name for name in named if name in _text_columns(subset)] or _text_columns(subset)
    if texts:
        terminal.print(picks_table(subset, texts))


def _text_columns(subset: "Dataset") -> list[str]:
    """Columns of strings, three at most."""
    from datasets import Value

    return [name for name, kind in subset.features.items() if isinstance(kind, Value) and kind.dtype == "string"][:3]


def plural(count: int, thing: str) -> str:
    """A count with its noun."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def since(started: float) -> str:
    """Seconds since then, for the end of a sentence."""
    return f" in {time.perf_counter() - started:.1f} s"


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
    from hf_gip.dataset.loading import open_recorded

    kept = manifest.source
    pool = open_recorded(source, split=kept.split, config=kept.config, revision=kept.revision)
    if len(pool) != kept.num_rows:
        raise ValueError(f"`--source` must be the pool of {kept.num_rows:,} rows, got {len(pool):,} rows.")
    return pool


def pool_again(manifest: "Manifest", folder: Path, source: str) -> "Dataset":
    """The pool that the subset in `folder` was chosen from, its chosen rows compared with their hashes."""
    from hf_gip.manifest.verify import check_chosen

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
    from hf_gip.manifest.reproduce import check_taken

    names = ("target", "exclude", "features", "encoder", "model", "checkpoints")
    given: dict[str, Any] = {name: options.get(name) or None for name in names}
    check_taken(manifest.method, given)
    for name, read in (("target", open_target), ("exclude", open_excluded)):
        place = {option: options[f"{name}_{option}"] for option in ("split", "config")}
        given[name] = read(given[name], **place)
    if given["features"] is not None:
        given["features"] = vectors(given["features"])
    return {**given, "initial_rows": selection.indices.tolist()}


def read_saved(folder: Path) -> "tuple[Manifest, Selection]":
    """The manifest and the picks of a saved folder.

    Raises:
        FileNotFoundError: If there is none.
    """
    from hf_gip.manifest.reader import read_picks
    from hf_gip.manifest.schema import MANIFEST_PATH, read_manifest
    from hf_gip.manifest.training_run import no_subset

    if not (folder / MANIFEST_PATH).exists() and (told := no_subset(folder)) is not None:
        raise FileNotFoundError(told)
    manifest = read_manifest(folder)
    return manifest, read_picks(manifest, folder)
