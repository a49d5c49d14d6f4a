"""What a round tells the trainer's logs."""

from importlib import import_module
from typing import Any

from transformers import Trainer

from .pool import Pool
from .records import table_of
from .rounds import Round

TABLE_ROWS = 1_000  # of a selection, best first, that go into an experiment tracker's table
TEXT_TOKENS = 64  # of each of them


def report_round(trainer: Trainer, chosen: Round, earlier: Round | None) -> None:
    """Log a round's scalars: how many rows, how many of them are old, what they hold, what they cost."""
    scalars = {
        "gip/selected": float(len(chosen.rows)),
        "gip/overlap_prev": chosen.overlap(earlier),
        "gip/captured": chosen.captured,
        "gip/feature_seconds": chosen.seconds["features"],
        "gip/select_seconds": chosen.seconds["select"],
    }
    trainer.log({name: value for name, value in scalars.items() if value is not None})


def report_table(trainer: Trainer, pool: Pool, chosen: Round) -> None:
    """Log the best rows of a round with their texts as `gip/rows`, to wandb and trackio where `report_to` has them.

    For the main process.
    """
    for name in ("wandb", "trackio"):
        if name not in (trainer.args.report_to or ()):
            continue
        tracker: Any = import_module(name)
        if name == "wandb" and tracker.run is None:
            continue
        frame = table_of(pool, chosen).slice(0, TABLE_ROWS).to_pandas().dropna(axis=1, how="all")
        texts = _texts(trainer, pool, chosen)
        if texts is not None:
            frame["text"] = texts
        tracker.log({"gip/rows": tracker.Table(dataframe=frame), "train/global_step": chosen.step})


def report_epoch(trainer: Trainer, chosen: Round, seconds: float) -> None:
    """Log the selection's share of an epoch that took `seconds` to train."""
    spent = sum(chosen.seconds.values())
    trainer.log({"gip/share_of_epoch": spent / (spent + seconds)})


def _texts(trainer: Trainer, pool: Pool, chosen: Round) -> list[str] | None:
    tokenizer: Any = trainer.processing_class
    if "input_ids" not in pool.rows.column_names or not hasattr(tokenizer, "batch_decode"):
        return None
    rows = pool.rows.select_columns("input_ids").with_format(None)[chosen.rows[:TABLE_ROWS].tolist()]
    return tokenizer.batch_decode([tokens[:TEXT_TOKENS] for tokens in rows["input_ids"]], skip_special_tokens=True)
