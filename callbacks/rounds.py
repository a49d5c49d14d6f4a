"""The selections of a run, one round each, and their files in `output_dir/gip`."""

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
from torch import Tensor
from transformers import Trainer

from hf_gip.io import friendly_disk_errors
from hf_gip.manifest.training_run import Epoch, TrainingRun, add_epoch, add_round

from .pool import Pool
from .view import PackedView, SelectionView

DISK_FULL = "free space there, then resume from the last checkpoint"
PACKAGES = ("hf-gip", "torch", "transformers", "trl", "datasets")


@dataclass(frozen=True)
class Round:
    """Rows served from one epoch on, until the next selection.

    Attributes:
        epoch: The first epoch that is trained on them, from 0.
        step: Optimizer steps done when they were chosen.
        rows: Positions in the pool, best first, (k,) or, with packing, as many as fit the packs.
        gains: What each added, (k,), in the objective's unit.
        weights: Weight of each row if the method gives one.
        captured: Share of the objective's total that they hold, if a total is known.
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

    def overlap(self, previous: "Round | None") -> float | None:
        """Share of these rows that the previous round held, too."""
        if previous is None:
            return None
        return float(torch.isin(self.rows, previous.rows).float().mean())

    def to_table(self, pool: Pool) -> pa.Table:
        """Rank, position, id, gain and weight of each row."""
        count = len(self.rows)
        return pa.table(
            {
                "rank": pa.array(range(count), pa.int64()),
                "index": pa.array(pool.positions[self.rows].numpy()),
                "row_id": pool.ids.take(pa.array(self.rows.numpy())),
                "gain": pa.array(self.gains.numpy()),
                "weight": pa.nulls(count, pa.float64()) if self.weights is None else pa.array(self.weights.numpy()),
                "epoch": pa.array([self.epoch] * count, pa.int64()),
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values from which `from_json` makes the same round."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "rows": encode_tensor(self.rows),
            "gains": encode_tensor(self.gains),
            "weights": None if self.weights is None else encode_tensor(self.weights),
            "captured": self.captured,
            "record": dict(self.record),
            "seconds": dict(self.seconds),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Round":
        """The round that `to_json` wrote."""
        names = ("rows", "gains", "weights")
        tensors = {name: None if values[name] is None else decode_tensor(values[name]) for name in names}
        return cls(**{**values, **tensors})


def encode_tensor(values: Tensor) -> dict[str, str]:
    """Numbers as one compressed line of text and their type."""
    array = values.numpy()
    return {"dtype": array.dtype.str, "data": base64.b64encode(zlib.compress(array.tobytes())).decode()}


def decode_tensor(encoded: Mapping[str, str]) -> Tensor:
    """The numbers that `encode_tensor` wrote."""
    data = zlib.decompress(base64.b64decode(encoded["data"]))
    return torch.from_numpy(np.frombuffer(data, encoded["dtype"]).copy())


def write_round(trainer: Trainer, pool: Pool, settings: dict[str, Any], made: Round) -> None:
    """Write a round to `output_dir/gip/selection_epoch_00000.parquet`, whole or not at all; `run.json` lists it.

    Raises:
        OSError: If the disk is full or closed.
    """
    output_dir = Path(trainer.args.output_dir or ".")
    path = output_dir / "gip" / f"selection_epoch_{made.epoch:05d}.parquet"
    view = cast(SelectionView | PackedView, trainer.train_dataset)
    checkpoint = output_dir / f"checkpoint-{made.step}"  # of the model that chose, if the run saved one
    entry = {
        "epoch": made.epoch,
        "step": made.step,
        "checkpoint": checkpoint.name if checkpoint.is_dir() else None,
        "file": path.name,
        "rows": len(made.rows),
        "items": len(view),
        "items_sha256": view.log.expected_sha256(),
        "captured": made.captured,
        "record": dict(made.record),
    }
    versions = {name: version(name) for name in PACKAGES}
    run = TrainingRun(model=model_name(trainer), pool_rows=len(pool), parameters=settings, versions=versions)
    with friendly_disk_errors(path.parent, DISK_FULL):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".parquet.part")
        pq.write_table(made.to_table(pool), partial)
        partial.replace(path)
        add_round(output_dir, run, entry)


def write_epoch(trainer: Trainer, epoch: Epoch) -> None:
    """Note in `run.json` what an epoch was served.

    Raises:
        OSError: If the disk is full or closed.
    """
    output_dir = Path(trainer.args.output_dir or ".")
    with friendly_disk_errors(output_dir / "gip", DISK_FULL):
        add_epoch(output_dir, epoch)


def model_name(trainer: Trainer) -> str:
    """The name the model in training was loaded by, else its class."""
    model = trainer.model
    return str(getattr(getattr(model, "config", None), "name_or_path", "") or type(model).__name__)
