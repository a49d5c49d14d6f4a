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
from .rounds import PACKAGES, Round, described, table_of

logger = logging.getLogger(__name__)


def publish(trainer: Trainer, pool: Pool, settings: dict[str, Any], chosen: Round, repo_id: str) -> None:
    """Save a round as `output_dir/gip/subset` and push it to `repo_id`. For the main process.

    Whatever fails is logged, with the command that pushes later: a training run is worth more than its publication.
    """
    if not bool(chosen.gains.isfinite().all()):
        logger.warning("The rows of epoch %d were drawn at random, not selected: they are not pushed.", chosen.epoch)
        return
    folder = Path(trainer.args.output_dir or ".") / "gip" / "subset"
    try:
        save(as_subset(trainer, pool, settings, chosen), folder)
    except Exception as error:
        logger.error("The subset was not saved to %s (%s: %s).", folder, type(error).__name__, error)
        return
    try:
        message = f"{len(chosen.rows):,} rows chosen at epoch {chosen.epoch}, step {chosen.step}"
        done = hf_gip.push_to_hub(hf_gip.load_subset(folder), repo_id, commit_message=message)
        logger.info("%s: %s, %s.", message, done.commit_url, "private" if done.private else "public")
    except Exception as error:
        logger.error(
            "The subset was not pushed to %r (%s: %s); it is saved in %s: push it later with `%s`.",
            repo_id,
            type(error).__name__,
            error,
            folder,
            command(folder, repo_id),
        )


def command(folder: Path, repo_id: str) -> str:
    """The line that pushes a saved subset."""
    return shlex.join(["hf-gip", "push", str(folder), repo_id])


def as_subset(trainer: Trainer, pool: Pool, settings: dict[str, Any], chosen: Round) -> Dataset:
    """The rows of a round, as they were given to the trainer, with the record of what chose them.

    The method is named `gip-in-training`: it cannot be repeated without the model as it was at that step.
    """
    assert pool.raw is not None
    known = dict(chosen.record)
    record = {
        **known,
        "method": f"{known.get('method', 'own')}-in-training",
        "parameters": {"k": len(chosen.rows), **known.get("parameters", {})},
        "training": {**described(trainer), **settings, "epoch": chosen.epoch, "step": chosen.step},
        "source": describe_source(pool.raw, id_column=pool.id_column),
        "versions": {name: version(name) for name in PACKAGES},
    }
    positions = pool.positions[chosen.rows]
    subset = pool.raw.select(positions.tolist())
    record["column_hashes"] = hash_columns(subset)
    selection = Selection(positions, chosen.gains.double(), weights=chosen.weights, record=record)
    if chosen.captured:
        selection = replace(selection, total=selection.objective / chosen.captured)
    setattr(subset, "selection", selection)  # noqa: B010 — attributes of this instance, read by the manifest's writer
    setattr(subset, "selected_from", pool.raw)  # noqa: B010
    return subset


def save(subset: Dataset, folder: Path) -> None:
    """Write `subset` to `folder`, in place of an earlier one."""
    aside = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    hf_gip.save_subset(subset, aside)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


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
