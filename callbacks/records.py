"""The record of a run: one table per selection."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import Trainer

from .pool import Pool
from .rounds import Round


def write_round(trainer: Trainer, pool: Pool, chosen: Round) -> Path:
    """Write a round to `output_dir/gip/selection_epoch_00000.parquet`, whole or not at all."""
    folder = Path(trainer.args.output_dir or ".") / "gip"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"selection_epoch_{chosen.epoch:05d}.parquet"
    aside = path.with_suffix(".parquet.part")
    pq.write_table(table_of(pool, chosen), aside)
    aside.replace(path)
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
