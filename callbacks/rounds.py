"""What each selection of a run was."""

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from torch import Tensor
from transformers import Trainer

from hf_gip.hashing import hash_rows
from hf_gip.io import friendly_disk_errors
from hf_gip.manifest.training_run import Epoch, Run, add_epoch, add_round

from .features import projection
from .pool import Pool
from .scoring import Recipe
from .trainer_access import packing_of
from .view import PackedView, SelectionView


@dataclass(frozen=True)
class Round:
    """Rows served from one epoch on, until the next selection.

    Attributes:
        epoch: The first epoch that is trained on them, from 0.
        step: Optimizer steps done when they were chosen.
        rows: Positions in the pool, best first, (k,) or, with packing, as many as fit the packs.
        gains: What each added, (k,), in the objective's unit.
        weights: Weight of each row where the method gives one, else None.
        captured: Share of the objective's total that they hold, where a total is known.
        record: Method and parameters, plain JSON values.
        seconds: Time spent on `features` and on `select`.
    """

    epoch: int
    step: int
    rows: Tensor
    gains: Tensor
    weights: Tensor | None = None
    captured: float | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    def overlap(self, earlier: "Round | None") -> float | None:
        """Share of these rows that the earlier round held too."""
        if earlier is None:
            return None
        return float(torch.isin(self.rows, earlier.rows).float().mean())

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values from which `from_json` makes the same round."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "rows": squeeze(self.rows),
            "gains": squeeze(self.gains),
            "weights": None if self.weights is None else squeeze(self.weights),
            "captured": self.captured,
            "record": dict(self.record),
            "seconds": dict(self.seconds),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Round":
        """The round that `to_json` wrote."""
        weights = values["weights"]
        return cls(
            **{
                **values,
                "rows": expand(values["rows"]),
                "gains": expand(values["gains"]),
                "weights": None if weights is None else expand(weights),
            }
        )


def squeeze(values: Tensor) -> dict[str, str]:
    """Numbers as one compressed line of text and their type."""
    array = values.numpy()
    return {"dtype": array.dtype.str, "data": base64.b64encode(zlib.compress(array.tobytes())).decode()}


def expand(saved: Mapping[str, str]) -> Tensor:
    """The numbers that `squeeze` wrote."""
    return torch.from_numpy(np.frombuffer(zlib.decompress(base64.b64decode(saved["data"])), saved["dtype"]).copy())


FULL = "free space there, then resume from the last checkpoint"
PACKAGES = ("hf-gip", "torch", "transformers", "trl", "datasets")


def write_round(trainer: Trainer, pool: Pool, settings: dict[str, Any], chosen: Round) -> Path:
    """Write a round to `output_dir/gip/selection_epoch_00000.parquet`, whole or not at all; `run.json` lists it.

    Raises:
        OSError: If the disk is full or closed.
    """
    folder = Path(trainer.args.output_dir or ".") / "gip"
    with friendly_disk_errors(folder, FULL):
        return _write(folder, trainer, pool, settings, chosen)


def write_epoch(trainer: Trainer, served: Epoch) -> None:
    """Note in `run.json` what an epoch was served.

    Raises:
        OSError: If the disk is full or closed.
    """
    folder = Path(trainer.args.output_dir or ".")
    with friendly_disk_errors(folder / "gip", FULL):
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
        "projected_to": None if projected is None else projected.projection_dim,
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
