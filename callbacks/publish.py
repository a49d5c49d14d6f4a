"""Publishing and logging a run's selections."""

import logging
import shlex
import shutil
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import Trainer

import hf_gip
from hf_gip.dataset.loading import describe_source
from hf_gip.hashing import hash_columns
from hf_gip.selection import Selection

from .pool import Pool
from .rounds import PACKAGES, Round, model_name

logger = logging.getLogger(__name__)

TABLE_ROWS = 1_000  # of a selection, best first, that go into an experiment tracker's table
TEXT_TOKENS = 64  # of each of them


def publish(trainer: Trainer, pool: Pool, settings: dict[str, Any], made: Round, repo_id: str) -> None:
    """Save a round as `output_dir/gip/subset` and push it to `repo_id`. For the main process.

    Whatever fails is logged, with the command that pushes later: a training run is worth more than its publication.
    """
    if not bool(made.gains.isfinite().all()):
        logger.warning("The rows of epoch %d were drawn at random, not selected: they are not pushed.", made.epoch)
        return
    folder = Path(trainer.args.output_dir or ".") / "gip" / "subset"
    try:
        _save_over(make_subset(trainer, pool, settings, made), folder)
    except Exception as error:
        logger.error("The subset was not saved to %s (%s: %s).", folder, type(error).__name__, error)
        return
    try:
        message = f"{len(made.rows):,} rows chosen at epoch {made.epoch}, step {made.step}"
        commit = hf_gip.push_to_hub(hf_gip.load_subset(folder), repo_id, commit_message=message)
        logger.info("%s: %s, %s.", message, commit.commit_url, "private" if commit.private else "public")
    except Exception as error:
        logger.error(
            "The subset was not pushed to %r (%s: %s); it is saved in %s: push it later with `%s`.",
            repo_id,
            type(error).__name__,
            error,
            folder,
            shlex.join(["hf-gip", "push", str(folder), repo_id]),
        )


def make_subset(trainer: Trainer, pool: Pool, settings: dict[str, Any], made: Round) -> Dataset:
    """The rows of a round, as they were given to the trainer, with the record of the selection.

    The method is named `gip-in-training`: it cannot be repeated without the model as it was at that step.
    """
    assert pool.raw is not None
    positions = pool.positions[made.rows]
    subset = pool.raw.select(positions.tolist())
    method = dict(made.record)
    record = {
        **method,
        "method": f"{method.get('method', 'own')}-in-training",
        "parameters": {"k": len(made.rows), **method.get("parameters", {})},
        "training": {"model": model_name(trainer), **settings, "epoch": made.epoch, "step": made.step},
        "source": describe_source(pool.raw, id_column=pool.id_column),
        "versions": {name: version(name) for name in PACKAGES},
        "column_hashes": hash_columns(subset),
    }
    selection = Selection(positions, made.gains.double(), weights=made.weights, record=record)
    if made.captured:
        selection = replace(selection, total=selection.objective / made.captured)
    setattr(subset, "selection", selection)  # noqa: B010 — attributes of this instance, read by the manifest's writer
    setattr(subset, "selected_from", pool.raw)  # noqa: B010
    return subset


def _save_over(subset: Dataset, folder: Path) -> None:
    """Write `subset` to `folder`, in place of an earlier one."""
    partial = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    hf_gip.save_subset(subset, partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def log_round(trainer: Trainer, made: Round, previous: Round | None) -> None:
    """Log a round's scalars: its size, its overlap with the previous one, what it captured, what it cost."""
    scalars = {
        "gip/selected": float(len(made.rows)),
        "gip/overlap_prev": made.overlap(previous),
        "gip/captured": made.captured,
        "gip/feature_seconds": made.seconds["features"],
        "gip/select_seconds": made.seconds["select"],
    }
    trainer.log({name: value for name, value in scalars.items() if value is not None})


def log_epoch(trainer: Trainer, made: Round, seconds: float) -> None:
    """Log the selection's share of an epoch that took `seconds` to train."""
    select_seconds = sum(made.seconds.values())
    trainer.log({"gip/share_of_epoch": select_seconds / (select_seconds + seconds)})


def log_table(trainer: Trainer, pool: Pool, made: Round) -> None:
    """Log the best rows of a round with their texts as `gip/rows`, if `report_to` names wandb or trackio.

    For the main process.
    """
    for name in ("wandb", "trackio"):
        if name not in (trainer.args.report_to or ()):
            continue
        tracker: Any = import_module(name)
        if name == "wandb" and tracker.run is None:
            continue
        frame = made.to_table(pool).slice(0, TABLE_ROWS).to_pandas().dropna(axis=1, how="all")
        texts = _decode_texts(trainer, pool, made)
        if texts is not None:
            frame["text"] = texts
        tracker.log({"gip/rows": tracker.Table(dataframe=frame), "train/global_step": made.step})


def _decode_texts(trainer: Trainer, pool: Pool, made: Round) -> list[str] | None:
    tokenizer: Any = trainer.processing_class
    if "input_ids" not in pool.rows.column_names or not hasattr(tokenizer, "batch_decode"):
        return None
    rows = pool.rows.select_columns("input_ids").with_format(None)[made.rows[:TABLE_ROWS].tolist()]
    return tokenizer.batch_decode([tokens[:TEXT_TOKENS] for tokens in rows["input_ids"]], skip_special_tokens=True)
