"""What commands share: their options, how a value is read from words, and how pools and saved subsets are opened."""

import json
import time
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer
from datasets import Dataset

if TYPE_CHECKING:
    import numpy as np

    from hf_gip.features.embedding_store import EmbeddingStore
    from hf_gip.manifest.reproduce import Inputs
    from hf_gip.manifest.schema import Manifest
    from hf_gip.selection import Selection

Number = TypeVar("Number", int, float)

Source = Annotated[str, typer.Argument(help="A Hub id, a .parquet, .jsonl, .csv … file, or a save_to_disk folder.")]
K = Annotated[int, typer.Option("--k", help="How many rows to choose.")]
Out = Annotated[Path, typer.Option("--out", help="A new or empty folder for the result.")]
TextColumns = Annotated[str | None, typer.Option(help="Text columns, instead of the detected ones: a,b.")]
IdColumn = Annotated[str | None, typer.Option(help="A column that names the rows.")]
Split = Annotated[str, typer.Option(help="Split of the source.")]
Config = Annotated[str | None, typer.Option(help="Configuration of the source.")]
Revision = Annotated[str | None, typer.Option(help="Revision of the source on the Hub.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, …; a GPU if there is one.")]
IncludeRows = Annotated[
    bool, typer.Option("--include-rows/--no-include-rows", help="The rows, or their positions and hashes only.")
]
Private = Annotated[
    bool | None,
    typer.Option("--private/--public", help="Of a new repository; private unless all rows are known to be public."),
]
Proxy = Annotated[
    str, typer.Option(help="The model whose gradients are taken: a Hub id or a folder; a small one will do.")
]
TargetModules = Annotated[
    str, typer.Option(help="Whose gradients: lora, last_layer, hidden (SPICE), or a pattern of layer names.")
]
MaxLength = Annotated[int, typer.Option(help="Tokens per row at most.")]
BatchSize = Annotated[int, typer.Option(help="Rows per forward pass.")]
Seed = Annotated[int, typer.Option(help="Of the shuffle or warm-up run, the LoRA layers and the projection.")]
SelectTarget = Annotated[str | None, typer.Option(help="What the rows should serve: a dataset, a file, or .npy.")]
SelectFeatures = Annotated[
    str | None, typer.Option(help="Ready vectors: a column, a .npy file, or a store of `hf-gip embed`.")
]
SelectEncoder = Annotated[str | None, typer.Option(help="'lexical', or a sentence-transformers id or folder.")]
# Of commands that read a saved subset again: what its manifest only names.
Target = Annotated[str | None, typer.Option(help="The target again, where it was a dataset or file.")]
TargetSplit = Annotated[str | None, typer.Option(help="Split of the target; train, where it has splits.")]
TargetConfig = Annotated[str | None, typer.Option(help="Configuration of the target.")]
Exclude = Annotated[str | None, typer.Option(help="The excluded rows again, where they were a dataset or file.")]
ExcludeSplit = Annotated[str | None, typer.Option(help="Split of the excluded rows; test, where they have splits.")]
ExcludeConfig = Annotated[str | None, typer.Option(help="Configuration of the excluded rows.")]
Features = Annotated[str | None, typer.Option(help="The vectors again, where they were a .npy file or a store.")]
EncoderKwargs = Annotated[
    str | None, typer.Option(help='Settings of the encoder as JSON: {"dtype": "bfloat16", "truncate_dim": 256}.')
]
Devices = Annotated[str | None, typer.Option(help="cpu, cuda, or several to embed on: cuda:0,cuda:1.")]
Encoder = Annotated[str | None, typer.Option(help="The encoder again, where it was a local folder.")]
Model = Annotated[str | None, typer.Option(help="The model again, where it was a local folder.")]
Checkpoints = Annotated[
    list[str] | None, typer.Option("--checkpoint", help="GTP's checkpoint folders again; repeat it.")
]
SubsetRevision = Annotated[str | None, typer.Option(help="Branch, tag or commit of the repository.")]
SubsetConfig = Annotated[str | None, typer.Option(help="Which subset, where there are several.")]
SubsetSplit = Annotated[str | None, typer.Option(help="Which split of it.")]


def defaults(function: Callable[..., Any]) -> Any:
    """The default of every argument of a function or options dataclass, as attributes."""
    arguments = signature(function).parameters.values()
    return SimpleNamespace(**{each.name: each.default for each in arguments if each.default is not each.empty})


# --- values from words -----------------------------------------------------------------------------------------------


def parse_list(words: str | None) -> list[str] | None:
    """`"a,b"` as a list."""
    return None if words is None else [name.strip() for name in words.split(",") if name.strip()]


def parse_weights(flag: str, words: str | None) -> list[str] | dict[str, float] | None:
    """`"a,b"` as a list, `"a=2,b"` as weights, 1 by default; `flag` is named in errors."""
    entries = parse_list(words)
    if entries is None or not any("=" in entry for entry in entries):
        return entries
    pairs = (entry.partition("=") for entry in entries)
    return {name: _number(flag, weight or "1", float, "a=2,b=1") for name, _, weight in pairs}


def parse_quotas(flag: str, words: str | None) -> int | dict[str, int] | None:
    """`"50"` as one number for all groups, `"forum=50,wiki=20"` as one by group; `flag` is named in errors."""
    entries, sample = parse_list(words), "50 or forum=50,wiki=20"
    if entries is None or (len(entries) == 1 and "=" not in entries[0]):
        return None if entries is None else _number(flag, entries[0], int, sample)
    pairs = (entry.rpartition("=") for entry in entries)
    return {name: _number(flag, count, int, sample) for name, _, count in pairs}


def parse_json(flag: str, words: str | None) -> dict[str, Any] | None:
    """`'{"dtype": "bfloat16"}'` as a dictionary; `flag` is named in errors.

    Raises:
        ValueError: If the words are no JSON object.
    """
    try:
        value = None if words is None else json.loads(words)
    except json.JSONDecodeError:
        value = words
    if value is not None and not isinstance(value, dict):
        raise ValueError(f'`{flag}` must be a JSON object such as {{"dtype": "bfloat16"}}, got {words!r}.')
    return value


def parse_floats(flag: str, words: str | None) -> list[float] | None:
    """`"1e-5,5e-6"` as numbers; `flag` is named in errors."""
    entries = parse_list(words)
    return None if entries is None else [_number(flag, entry, float, "1e-5,5e-6") for entry in entries]


def _number(flag: str, text: str, kind: Callable[[str], Number], sample: str) -> Number:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"`{flag}` must be numbers such as {sample}, got {text!r}.") from None


# --- rows and vectors ------------------------------------------------------------------------------------------------


def read_pool(source: str, *, split: str, config: str | None, revision: str | None = None) -> Dataset:
    """The pool, and a line that says what was read."""
    from hf_gip.cli.output import plural, show, since
    from hf_gip.dataset.loading import open_dataset

    started = time.perf_counter()
    pool = open_dataset(source, split=split, config=config, revision=revision)
    shape = f"{plural(len(pool), 'row')} of {plural(len(pool.column_names), 'column')}"
    show(f"Read {shape} from {Path(source).name!r}{since(started)}.")
    return pool


def save_result(subset: Dataset, out: Path, *, include_rows: bool) -> None:
    """Save the subset, and a line that says where."""
    from rich.filesize import decimal

    from hf_gip.cli.output import is_first_rank, show, since
    from hf_gip.manifest.writer import save_subset

    if not is_first_rank():
        return
    started = time.perf_counter()
    manifest = save_subset(subset, out, include_rows=include_rows)
    size = decimal(sum(entry.size for entry in manifest.files.values()))
    show(f"Saved {size} to {str(out)!r}{since(started)}: check it with `hf-gip verify`.")


def open_target(name: str | None, *, split: str | None, config: str | None) -> "Dataset | np.ndarray | None":
    """A target by name: a `.npy` matrix, or a split, by default train, of anything `open_dataset` reads."""
    return _open("target", name, split=split, config=config)


def open_target_rows(name: str | None, *, split: str | None, config: str | None) -> Dataset | None:
    """A target of rows by name, where vectors do not do.

    Raises:
        ValueError: If it is a `.npy` matrix.
    """
    if name is not None and name.endswith(".npy"):
        raise ValueError(
            f"`target` must be a dataset or a file of rows, whose gradients are taken, got the matrix {name!r}: give "
            "the rows."
        )
    return cast("Dataset | None", open_target(name, split=split, config=config))


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
        reason = f"a matrix such as {Path(name).name!r} has none" if name else f"it goes with `{argument}`, got none"
        for option, value in (("split", split), ("config", config)):
            if value is not None:
                raise ValueError(f"`{argument}_{option}` must be left out, got {value!r}: {reason}.")
        return None if name is None else load_npy(name)
    split = split or ("test" if argument == "exclude" and has_splits(name) else "train")
    return open_dataset(name, split=split, config=config, prefix=f"{argument}_")


def column_or_npy(features: str | None) -> "str | np.ndarray | None":
    """Ready vectors: a column's name as it is, a `.npy` file as its matrix."""
    return load_npy(features) if features is not None and features.endswith(".npy") else features


def open_vectors(path: str) -> "np.ndarray | EmbeddingStore":
    """The vectors that a subset was chosen by: a `.npy` file, or a store."""
    from hf_gip.features.embedding_store import is_store, open_embeddings

    return open_embeddings(path) if is_store(path) else load_npy(path)


def load_npy(path: str) -> "np.ndarray":
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


# --- saved subsets ---------------------------------------------------------------------------------------------------


def read_saved(folder: Path) -> "tuple[Manifest, Selection]":
    """The manifest and the selection of a saved folder.

    Raises:
        FileNotFoundError: If there is none.
    """
    from hf_gip.manifest.reader import load_selection
    from hf_gip.manifest.schema import MANIFEST_PATH, read_manifest
    from hf_gip.manifest.training_run import refuse_run_folder

    if not (folder / MANIFEST_PATH).exists():
        refuse_run_folder(folder)
    manifest = read_manifest(folder)
    return manifest, load_selection(manifest, folder)


def open_recorded_pool(manifest: "Manifest", source: str) -> Dataset:
    """The pool that a subset was chosen from, by the name it has now.

    Raises:
        ValueError: If `source` is of another size.
    """
    from hf_gip.dataset.loading import open_recorded

    recorded = manifest.source
    pool = open_recorded(source, split=recorded.split, config=recorded.config, revision=recorded.revision)
    if len(pool) != recorded.num_rows:
        raise ValueError(f"`source` must be the pool of {recorded.num_rows:,} rows, got {len(pool):,} rows.")
    return pool


def check_pool(manifest: "Manifest", folder: Path, pool: Dataset, subset: str | None = None) -> None:
    """Raise unless the rows of `pool` at the chosen positions are those that were chosen.

    Args:
        manifest: What was recorded.
        folder: The saved subset.
        pool: The rows.
        subset: What the subset is called, where there are several.

    Raises:
        ValueError: If a row is another one, or not there.
    """
    from hf_gip.manifest.reader import read_selection_table
    from hf_gip.manifest.schema import SELECTION_PATH
    from hf_gip.manifest.verify import chosen_row_problems

    if problems := chosen_row_problems(manifest, read_selection_table(folder / SELECTION_PATH), pool):
        of = "" if subset is None else f" of {subset!r}"
        raise ValueError(f"`source` must be the pool that the rows{of} were chosen from: {problems[0]}.")


def resupplied_inputs(manifest: "Manifest", options: dict[str, Any]) -> "Inputs":
    """What a manifest cannot hold, from the options that name it.

    Args:
        manifest: What was recorded.
        options: Of the command, by their names here.
    """
    from hf_gip.manifest.reproduce import Inputs

    names = ("target", "exclude", "features", "encoder", "model", "checkpoints")
    words: dict[str, Any] = {name: options.get(name) or None for name in names}
    Inputs(**words).check_method(manifest.method)
    for name, read in (("target", open_target), ("exclude", open_excluded)):
        words[name] = read(words[name], split=options[f"{name}_split"], config=options[f"{name}_config"])
    if words["features"] is not None:
        words["features"] = open_vectors(words["features"])
    return Inputs(**words)
