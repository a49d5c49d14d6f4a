"""The rows of a round as a subset of their own: saved in the run's folder, then published."""

import logging
import shlex
import shutil
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import Trainer

import hf_gip
from hf_gip.dataset.source import describe_source
from hf_gip.hashing import hash_columns
from hf_gip.selection import Selection

from .pool import Pool
from .records import PACKAGES, described
from .rounds import Round

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
