"""The record of a run: one table per selection."""

from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from transformers import Trainer

from hf_gip.disk import written
from hf_gip.hashing import hash_rows
from hf_gip.manifest.run import Epoch, Run, add_epoch, add_round

from .choose import Recipe
from .host import packing_of
from .pool import Pool
from .probe import projection
from .rounds import Round
from .view import PackedView, SelectionView

FULL = "free space there, then resume from the last checkpoint"
PACKAGES = ("hf-gip", "torch", "transformers", "trl", "datasets")


def write_round(trainer: Trainer, pool: Pool, settings: dict[str, Any], chosen: Round) -> Path:
    """Write a round to `output_dir/gip/selection_epoch_00000.parquet`, whole or not at all; `run.json` lists it.

    Raises:
        OSError: If the disk is full or closed.
    """
    folder = Path(trainer.args.output_dir or ".") / "gip"
    with written(folder, FULL):
        return _write(folder, trainer, pool, settings, chosen)


def write_epoch(trainer: Trainer, served: Epoch) -> None:
    """Note in `run.json` what an epoch was served.

    Raises:
        OSError: If the disk is full or closed.
    """
    folder = Path(trainer.args.output_dir or ".")
    with written(folder / "gip", FULL):
        add_epoch(folder, served)


def _write(folder: Path, trainer: Trainer, pool: Pool, settings: dict[str, Any], chosen: Round) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"selection_epoch_{chosen.epoch:05d}.parquet"
    aside = path.with_suffix(".parquet.part")
    pq.write_table(table_of(pool, chosen), aside)
    aside.replace(path)
    view = cast(SelectionView | PackedView, trainer.train_dataset)
    checkpoint = folder.parent / f"checkpoint-{chosen.step}"  # of the model that chose, where the run saved one
    made = {
        "epoch": chosen.epoch,
        "step": chosen.step,
        "checkpoint": checkpoint.name if checkpoint.is_dir() else None,
        "file": path.name,
        "rows": len(chosen.rows),
        "items": len(view),
        "items_sha256": view.served.content(),
        "captured": chosen.captured,
        "record": dict(chosen.record),
    }
    run = Run(
        model=described(trainer)["model"],
        pool_rows=len(pool),
        parameters=settings,
        versions={name: version(name) for name in PACKAGES},
    )
    add_round(folder.parent, run, made)
    return path


def described(trainer: Trainer) -> dict[str, str]:
    """What the model in training is called: the name it was loaded by, else its class."""
    model = trainer.model
    return {"model": str(getattr(getattr(model, "config", None), "name_or_path", "") or type(model).__name__)}


def settings_of(trainer: Trainer, recipe: Recipe, **schedule: Any) -> dict[str, Any]:
    """The options of a run as plain JSON: what is read, what chooses, when."""
    packing, projected = packing_of(trainer), projection(recipe.features, trainer.args.seed)
    return {
        "features": recipe.features,
        "projected_to": None if projected is None else projected.dims,
        "target_sha256": None if recipe.target is None else _digest(recipe.target),
        "scores": list(recipe.scores),
        "objective": recipe.objective,
        "noise": recipe.noise,
        "own_select": recipe.select is not None,
        "packing": None if packing is None else packing.strategy,
        "seed": trainer.args.seed,
        **schedule,
    }


def _digest(target: Dataset) -> str:
    """What prepared rows are, by the tokens and labels of each."""
    return hash_rows(target, [name for name in ("input_ids", "labels") if name in target.column_names])


def table_of(pool: Pool, chosen: Round) -> pa.Table:
    """Rank, position, name, gain and weight of each row of a round."""
    count = len(chosen.rows)
    return pa.table(
        {
            "rank": pa.array(range(count), pa.int64()),
            "index": pa.array(pool.positions[chosen.rows].numpy()),
            "row_id": pool.ids.take(pa.array(chosen.rows.numpy())),
            "gain": pa.array(chosen.gains.numpy()),
            "weight": pa.nulls(count, pa.float64()) if chosen.weights is None else pa.array(chosen.weights.numpy()),
            "epoch": pa.array([chosen.epoch] * count, pa.int64()),
        }
    )
