"""The record of a training run that selects between epochs."""

import hashlib
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hf_gip.dataset.report import write_page
from hf_gip.hashing import hash_file
from hf_gip.manifest.schema import MANIFEST_PATH
from hf_gip.manifest.verify import Check, Report, verdict
from hf_gip.plots import plot_gains, plot_overlap
from hf_gip.selection import Selection

if TYPE_CHECKING:
    from matplotlib.figure import Figure


RUN = "gip/run.json"
MAX_BYTES = 16 << 20
PATTERN = r"^selection_epoch_[0-9]{5,9}\.parquet$"
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Epoch(BaseModel):
    """What reached the collator in an epoch: how many items (rows or packs), and a digest of their content.

    `whole` says that it ran from its first step to its last in one go. Of an epoch that did not, items count that the
    loader had read ahead.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epoch: Annotated[int, Field(ge=0)]
    whole: bool
    items: Annotated[int, Field(ge=0)]
    sha256: Digest


class RunRound(BaseModel):
    """One selection: the first epoch trained on it, the optimizer step it was made at, its file and what made it.

    `items` is how many rows or packs it is served as, `items_sha256` the digest of an epoch that serves them all;
    `served` are the epochs trained on it.
    `checkpoint` is the folder of the model that made it, where the run had saved one at that step; `parameters` are
    the options it was made with, where the run was resumed later with others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epoch: Annotated[int, Field(ge=0)]
    step: Annotated[int, Field(ge=0)]
    file: Annotated[str, Field(pattern=PATTERN)]
    sha256: Digest
    rows: Annotated[int, Field(ge=0)]
    items: Annotated[int, Field(ge=0)]
    items_sha256: Digest
    served: tuple[Epoch, ...] = ()
    captured: float | None = None
    checkpoint: Annotated[str, Field(pattern=r"^checkpoint-[0-9]+$")] | None = None
    record: dict[str, Any] = Field(default_factory=dict)
    parameters: dict[str, Any] | None = None


class Run(BaseModel):
    """The selections of a run, by epoch, and the pool's size; `digest` covers all of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[int, Field(ge=1, le=1)] = 1
    model: str
    pool_rows: Annotated[int, Field(ge=1)]
    parameters: dict[str, Any]
    versions: dict[str, str] = Field(default_factory=dict)
    rounds: tuple[RunRound, ...] = ()
    digest: str = ""

    def content_digest(self) -> str:
        """SHA-256 of everything but `digest`."""
        content = self.model_dump(mode="json", exclude={"digest"})
        for made in content["rounds"]:
            if made["parameters"] is None:  # as records were before there was such a field
                del made["parameters"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def no_subset(folder: Path) -> str | None:
    """What to give in place of a training run's folder where a subset was wanted; None where it is none."""
    if not (folder / RUN).is_file():
        return None
    inside = folder / "gip" / "subset"
    if (inside / MANIFEST_PATH).is_file():
        return f"{str(folder)!r} is the folder of a training run: give the subset in it, {str(inside)!r}."
    return (
        f"{str(folder)!r} is the folder of a training run and holds no subset: `hf-gip verify` and `hf-gip report` "
        "without `--source` read it."
    )


def add_round(folder: Path, run: Run, made: Mapping[str, Any]) -> None:
    """List a round whose file is written in `folder/gip`; what an earlier run listed from its epoch on is dropped."""
    made = {**made, "sha256": hash_file(folder / "gip" / made["file"])}
    new = RunRound.model_validate(made)
    path = folder / RUN
    kept: tuple[RunRound, ...] = ()
    if path.exists() and new.epoch:
        before = read_run(folder)
        kept = tuple(old for old in before.rounds if old.epoch < new.epoch)
        if before.parameters != run.parameters:
            others = {"parameters": before.parameters}
            kept = tuple(old if old.parameters else old.model_copy(update=others) for old in kept)
    _write_run(folder, run.model_copy(update={"rounds": (*kept, new)}))


def add_epoch(folder: Path, served: Epoch) -> None:
    """List what an epoch served with its selection; what an earlier run listed from this epoch on is dropped."""
    if not (folder / RUN).exists():  # resumed in another folder, between two selections
        return
    run = read_run(folder)
    rounds = [made for made in run.rounds if made.epoch <= served.epoch]
    if rounds:
        before = [each for each in rounds[-1].served if each.epoch < served.epoch]
        rounds[-1] = rounds[-1].model_copy(update={"served": (*before, served)})
    _write_run(folder, run.model_copy(update={"rounds": tuple(rounds)}))


def _write_run(folder: Path, run: Run) -> None:
    path = folder / RUN
    text = run.model_copy(update={"digest": run.content_digest()}).model_dump_json(indent=2)
    aside = path.with_suffix(".json.part")
    aside.write_text(text + "\n", encoding="utf-8")
    aside.replace(path)


def read_run(folder: Path) -> Run:
    """An untrusted record of a run.

    Raises:
        ValueError: If it is too long or says something else.
    """
    path = folder / RUN
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"the record {RUN!r} is longer than {MAX_BYTES} bytes.")
    try:
        return Run.model_validate(json.loads(path.read_bytes()))
    except (ValidationError, ValueError, RecursionError) as error:
        raise ValueError(f"the record {RUN!r} cannot be read: {str(error).splitlines()[0]}.") from None


def verify_run(folder: Path) -> Report:
    """Check that every selection of a run is there, unchanged, and names different rows of the pool."""
    try:
        run = read_run(folder)
    except (OSError, ValueError) as error:
        return Report(str(folder), (Check("run", "failed", str(error)),))
    epochs = [made.epoch for made in run.rounds]
    order = [] if epochs and epochs == sorted(set(epochs)) else [f"epochs {epochs} do not rise"]
    if run.content_digest() != run.digest:
        order.append(f"{RUN} was changed: its content does not fit its `digest`")
    problems = [problem for made in run.rounds for problem in _problems(folder / "gip" / made.file, made, run)]
    served = [(made, each) for made in run.rounds for each in made.served]
    whole = sum(each.whole and each.items == made.items for made, each in served)
    others = [f"epoch {each.epoch} served other rows than chosen" for made, each in served if _differs(made, each)]
    return Report(
        str(folder),
        (
            verdict("run", order, f"{len(epochs)} selection(s) of {run.model}."),
            verdict("selections", problems, f"{len(epochs)} file(s) as recorded."),
            verdict("served", others, f"{whole} epoch(s) trained on all rows chosen, {len(served) - whole} on a part.")
            if served
            else Check("served", "not covered", "no epoch was trained to its end."),
            Check("source rows", "not covered", "a run records positions and names of rows, not their hashes."),
        ),
    )


def _differs(made: RunRound, served: Epoch) -> bool:
    if served.items == made.items:
        return served.sha256 != made.items_sha256 or served.epoch < made.epoch
    return served.items > made.items or served.epoch < made.epoch


def _problems(path: Path, made: RunRound, run: Run) -> list[str]:
    try:
        if hash_file(path) != made.sha256:
            return [f"{made.file} has changed"]
        table = pq.read_table(path, columns=["index", "epoch"])
    except (OSError, pa.ArrowException, ValueError) as error:
        return [f"{made.file} cannot be read ({type(error).__name__})"]
    if not all(pa.types.is_integer(table[name].type) for name in ("index", "epoch")):
        return [f"{made.file} holds no positions and epochs"]
    indices = table["index"].to_pylist()
    wrong = []
    if len(indices) != made.rows or len(set(indices)) != len(indices):
        wrong.append(f"{made.file} holds {len(set(indices))} different row(s), recorded {made.rows}")
    if any(index is None or not 0 <= index < run.pool_rows for index in indices):
        wrong.append(f"{made.file} names a row that no pool has")
    if set(table["epoch"].to_pylist()) - {made.epoch}:
        wrong.append(f"{made.file} is not of epoch {made.epoch}")
    return wrong if made.rows <= run.pool_rows else [*wrong, f"{made.file} has more rows than the pool"]


def write_run_page(folder: str | PathLike[str], path: str | PathLike[str]) -> Path:
    """Write one self-contained HTML page about the selections that `GIPSelectionCallback` made during a run.

    It shows how much of each selection was in the one before and in the first, the gains of the last one, and a
    searchable table of its rows by name, with the number of selections each was in.

    Args:
        folder: The run's `output_dir`.
        path: Where to write the page.

    Returns:
        The path.

    Raises:
        ValueError: If the folder holds no selection, or one that was changed.
    """
    found = verify_run(Path(folder))
    if not found:
        raise ValueError(f"the run's selections must be as recorded, got: {found.failed[0].sentence}")
    run = read_run(Path(folder))
    tables = [pq.read_table(Path(folder) / "gip" / made.file) for made in run.rounds]
    last = tables[-1]
    times = dict.fromkeys(last["index"].to_pylist(), 0)
    for table in tables:
        for row in table["index"].to_pylist():
            if row in times:
                times[row] += 1
    record = run.model_dump(mode="json") | {"method": f"gip for epoch {run.rounds[-1].epoch} of a run"}
    record["source"] = {"num_rows": run.pool_rows}
    gains = torch.from_numpy(last["gain"].to_numpy().copy())
    selection = Selection(torch.tensor(last["index"].to_pylist()), gains, record=record)
    pictures: list[tuple[str, Figure]] = [("What each pick of the last selection added", plot_gains(selection))]
    if len(tables) > 1:
        pictures.insert(0, ("How the selections of the run overlap", plot_overlap(folder)))
    names = [str(name) for name in last["row_id"].to_pylist()]
    chosen = {f"chosen in {len(tables)} selections": list(times.values())}
    return write_page(Path(path), selection, texts=names, pictures=pictures, columns=chosen)
