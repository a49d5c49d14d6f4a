"""`gip/run.json`: the selections that a training run made, and what reached the model in each epoch."""

import json
from collections import Counter
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hf_gip.hashing import hash_bytes, hash_file
from hf_gip.io import first_line
from hf_gip.manifest.schema import MANIFEST_PATH, MAX_BYTES
from hf_gip.manifest.verify import Check, VerificationReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RUN = "gip/run.json"
SELECTION_FILE = r"^selection_epoch_[0-9]{5,9}\.parquet$"
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


class SelectionRound(BaseModel):
    """One selection: the first epoch trained on it, the optimizer step it was made at, its file and what made it.

    `items` is how many rows or packs it is served as, `items_sha256` the digest of an epoch that serves them all;
    `served` are the epochs trained on it.
    `checkpoint` is the folder of the model that made it, where the run had saved one at that step; `parameters` are
    the options it was made with, where the run was resumed later with others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epoch: Annotated[int, Field(ge=0)]
    step: Annotated[int, Field(ge=0)]
    file: Annotated[str, Field(pattern=SELECTION_FILE)]
    sha256: Digest
    rows: Annotated[int, Field(ge=0)]
    items: Annotated[int, Field(ge=0)]
    items_sha256: Digest
    served: tuple[Epoch, ...] = ()
    captured: float | None = None
    checkpoint: Annotated[str, Field(pattern=r"^checkpoint-[0-9]+$")] | None = None
    record: dict[str, Any] = Field(default_factory=dict)
    parameters: dict[str, Any] | None = None


class TrainingRun(BaseModel):
    """The selections of a run, by epoch, and the pool's size; `digest` covers all of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[int, Field(ge=1, le=1)] = 1
    model: str
    pool_rows: Annotated[int, Field(ge=1)]
    parameters: dict[str, Any]
    versions: dict[str, str] = Field(default_factory=dict)
    rounds: tuple[SelectionRound, ...] = ()
    digest: str = ""

    def content_digest(self) -> str:
        """SHA-256 of everything but `digest`."""
        content = self.model_dump(mode="json", exclude={"digest"})
        for selection_round in content["rounds"]:
            if selection_round["parameters"] is None:  # as records were before there was such a field
                del selection_round["parameters"]
        return hash_bytes(json.dumps(content, sort_keys=True).encode())


# --- written by the callback -----------------------------------------------------------------------------------------


def add_round(folder: Path, run: TrainingRun, fields: Mapping[str, Any]) -> None:
    """List a round whose file is written in `folder/gip`; what an earlier run listed from its epoch on is dropped.

    Args:
        folder: The run's output folder.
        run: The run, without rounds.
        fields: Of the `SelectionRound`, but its file's digest.
    """
    added = SelectionRound.model_validate({**fields, "sha256": hash_file(folder / "gip" / fields["file"])})
    earlier: tuple[SelectionRound, ...] = ()
    if (folder / RUN).exists() and added.epoch:
        before = read_run(folder)
        earlier = tuple(each for each in before.rounds if each.epoch < added.epoch)
        if before.parameters != run.parameters:
            update = {"parameters": before.parameters}
            earlier = tuple(each if each.parameters else each.model_copy(update=update) for each in earlier)
    _write_run(folder, run.model_copy(update={"rounds": (*earlier, added)}))


def add_epoch(folder: Path, served: Epoch) -> None:
    """List what an epoch served with its selection; what an earlier run listed from this epoch on is dropped."""
    if not (folder / RUN).exists():  # resumed in another folder, between two selections
        return
    run = read_run(folder)
    rounds = [each for each in run.rounds if each.epoch <= served.epoch]
    if rounds:
        before = [each for each in rounds[-1].served if each.epoch < served.epoch]
        rounds[-1] = rounds[-1].model_copy(update={"served": (*before, served)})
    _write_run(folder, run.model_copy(update={"rounds": tuple(rounds)}))


def _write_run(folder: Path, run: TrainingRun) -> None:
    text = run.model_copy(update={"digest": run.content_digest()}).model_dump_json(indent=2)
    part = (folder / RUN).with_suffix(".json.part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(folder / RUN)


# --- read, checked and shown -----------------------------------------------------------------------------------------


def read_run(folder: Path) -> TrainingRun:
    """An untrusted record of a run.

    Raises:
        ValueError: If it is too long or says something else.
    """
    path = folder / RUN
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"the record {RUN!r} is longer than {MAX_BYTES} bytes.")
    try:
        return TrainingRun.model_validate(json.loads(path.read_bytes()))
    except (ValidationError, ValueError, RecursionError) as error:
        raise ValueError(f"the record {RUN!r} cannot be read: {first_line(error)}.") from None


def refuse_run_folder(folder: Path) -> None:
    """Raise where a subset is wanted and `folder` is a training run's: with the folder to name instead.

    Raises:
        FileNotFoundError: If it is.
    """
    if not (folder / RUN).is_file():
        return
    subset = folder / "gip" / "subset"
    if (subset / MANIFEST_PATH).is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} is the folder of a training run: give the subset in it, {str(subset)!r}."
        )
    raise FileNotFoundError(
        f"{str(folder)!r} is the folder of a training run and holds no subset: `hf-gip verify` and `hf-gip report` "
        "without `--source` read it."
    )


def verify_run(folder: Path) -> VerificationReport:
    """Check that every selection of a run is there, unchanged, and names different rows of the pool."""
    try:
        run = read_run(folder)
    except (OSError, ValueError) as error:
        return VerificationReport(str(folder), (Check("run", "failed", str(error)),))
    epochs = [each.epoch for each in run.rounds]
    order = [] if epochs and epochs == sorted(set(epochs)) else [f"epochs {epochs} do not rise"]
    if run.content_digest() != run.digest:
        order.append(f"{RUN} was changed: its content does not fit its `digest`")
    problems = [problem for each in run.rounds for problem in _file_problems(folder / "gip" / each.file, each, run)]
    served = [(each, epoch) for each in run.rounds for epoch in each.served]
    whole = sum(epoch.whole and epoch.items == each.items for each, epoch in served)
    changed = [f"epoch {epoch.epoch} served other rows than chosen" for each, epoch in served if _differs(each, epoch)]
    return VerificationReport(
        str(folder),
        (
            Check.of("run", order, f"{len(epochs)} selection(s) of {run.model}."),
            Check.of("selections", problems, f"{len(epochs)} file(s) as recorded."),
            Check.of(
                "served",
                changed,
                f"{whole} epoch(s) trained on all rows chosen, {len(served) - whole} on a part.",
            )
            if served
            else Check("served", "not covered", "no epoch was trained to its end."),
            Check("source rows", "not covered", "a run records positions and names of rows, not their hashes."),
        ),
    )


def _differs(selection_round: SelectionRound, epoch: Epoch) -> bool:
    if epoch.items == selection_round.items:
        return epoch.sha256 != selection_round.items_sha256 or epoch.epoch < selection_round.epoch
    return epoch.items > selection_round.items or epoch.epoch < selection_round.epoch


def _file_problems(path: Path, selection_round: SelectionRound, run: TrainingRun) -> list[str]:
    name = selection_round.file
    try:
        if hash_file(path) != selection_round.sha256:
            return [f"{name} has changed"]
        table = pq.read_table(path, columns=["index", "epoch"])
    except (OSError, pa.ArrowException, ValueError) as error:
        return [f"{name} cannot be read ({type(error).__name__})"]
    if not all(pa.types.is_integer(table[column].type) for column in ("index", "epoch")):
        return [f"{name} holds no positions and epochs"]
    indices = table["index"].to_pylist()
    problems = []
    if len(indices) != selection_round.rows or len(set(indices)) != len(indices):
        problems.append(f"{name} holds {len(set(indices))} different row(s), recorded {selection_round.rows}")
    if any(index is None or not 0 <= index < run.pool_rows for index in indices):
        problems.append(f"{name} names a row that no pool has")
    if set(table["epoch"].to_pylist()) - {selection_round.epoch}:
        problems.append(f"{name} is not of epoch {selection_round.epoch}")
    if selection_round.rows > run.pool_rows:
        problems.append(f"{name} has more rows than the pool")
    return problems


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
    import torch

    from hf_gip.dataset.report import write_page
    from hf_gip.plots import plot_gains, plot_overlap
    from hf_gip.selection import Selection

    report = verify_run(Path(folder))
    if not report:
        raise ValueError(f"the run's selections must be as recorded, got: {report.failed[0].sentence}")
    run = read_run(Path(folder))
    tables = [pq.read_table(Path(folder) / "gip" / each.file) for each in run.rounds]
    last = tables[-1]
    counts = Counter(row for table in tables for row in table["index"].to_pylist())
    record = run.model_dump(mode="json") | {"method": f"gip for epoch {run.rounds[-1].epoch} of a run"}
    record["source"] = {"num_rows": run.pool_rows}
    gains = torch.from_numpy(last["gain"].to_numpy().copy())
    selection = Selection(torch.tensor(last["index"].to_pylist()), gains, record=record)
    pictures: list[tuple[str, Figure]] = [("What each pick of the last selection added", plot_gains(selection))]
    if len(tables) > 1:
        pictures.insert(0, ("How the selections of the run overlap", plot_overlap(folder)))
    names = [str(name) for name in last["row_id"].to_pylist()]
    columns = {f"chosen in {len(tables)} selections": [counts[row] for row in last["index"].to_pylist()]}
    return write_page(Path(path), selection, texts=names, pictures=pictures, columns=columns)
