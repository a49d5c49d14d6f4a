"""One selection of a run, and how it travels through a checkpoint.

The rows of the current selection go into the checkpoint's own `trainer_state.json` (compressed, one line): a run that
is resumed inside an epoch must finish that epoch on the rows it began with, and the model has moved on since they were
chosen. At an epoch's end nothing needs restoring but what later rounds ask for.
"""

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


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
