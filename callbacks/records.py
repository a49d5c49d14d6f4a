"""The record of a run: one table per selection."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import Trainer

from hf_gip.manifest.run import Run, add_round

from .choose import Recipe
from .pool import Pool
from .rounds import Round


def write_round(trainer: Trainer, pool: Pool, recipe: Recipe, chosen: Round) -> Path:
    """Write a round to `output_dir/gip/selection_epoch_00000.parquet`, whole or not at all; `run.json` lists it."""
    folder = Path(trainer.args.output_dir or ".") / "gip"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"selection_epoch_{chosen.epoch:05d}.parquet"
    aside = path.with_suffix(".parquet.part")
    pq.write_table(table_of(pool, chosen), aside)
    aside.replace(path)
    model = str(getattr(getattr(trainer.model, "config", None), "name_or_path", "") or type(trainer.model).__name__)
    parameters = {
        "features": recipe.features,
        "target_rows": None if recipe.target is None else len(recipe.target),
        "scores": list(recipe.scores),
        "objective": recipe.objective,
        "noise": recipe.noise,
        "own_select": recipe.select is not None,
    }
    made = {
        "epoch": chosen.epoch,
        "step": chosen.step,
        "file": path.name,
        "rows": len(chosen.rows),
        "captured": chosen.captured,
        "record": dict(chosen.record),
    }
    add_round(folder.parent, Run(model=model, pool_rows=len(pool), parameters=parameters), made)
    return path


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
