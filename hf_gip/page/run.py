"""The page of a training run: its last selection, and how its selections overlap."""

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import torch

from hf_gip.manifest.run import read_run, verify_run
from hf_gip.page.write import write_page
from hf_gip.pictures import plot_gains, plot_overlap
from hf_gip.selection import Selection

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
