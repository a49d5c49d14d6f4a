"""A short training run on a random part of the pool that leaves a checkpoint per epoch, resumed after a kill."""

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets.utils import tqdm
from jaxtyping import Int64
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from hf_gip.features.matrix_files import is_valid_safetensors
from hf_gip.features.per_example_gradients import PerExampleGradients
from hf_gip.features.progress import announce_if_long
from hf_gip.features.proxy import ProxyTrainer
from hf_gip.features.snapshot_pca import weight_vector
from hf_gip.features.tokenization import RowCounts, token_batches
from hf_gip.io import save_safetensors_atomically

logger = logging.getLogger(__name__)

STEP_ROWS = 32  # rows per optimizer step, as in LESS
RAMP = 0.03  # share of the steps in which the learning rate rises
SNAPSHOTS = 40  # of the weights per epoch, at most
SAVE_SECONDS = 10.0  # what a kill costs at most, besides the step in work


@dataclass(frozen=True, slots=True)
class WarmUpPlan:
    """How the run goes.

    Attributes:
        share: Part of the rows it trains on, in (0, 1].
        epochs: Times it sees them; each leaves a checkpoint.
        learning_rate: The peak, reached after 3 % of the steps and then falling in a straight line.
        seed: Which rows, in which order.
        snapshots: Whether weights are noted along each epoch, for their principal components.
    """

    share: float
    epochs: int
    learning_rate: float
    seed: int
    snapshots: bool

    def orders(self, usable: Int64[Tensor, " m"]) -> list[list[list[int]]]:
        """The rows of every step of every epoch."""
        generator = torch.Generator().manual_seed(self.seed)
        count = max(1, round(self.share * len(usable)))
        rows = usable[torch.randperm(len(usable), generator=generator)[:count]]
        shuffled = [rows[torch.randperm(count, generator=generator)] for _ in range(self.epochs)]
        return [[step.tolist() for step in order.split(STEP_ROWS)] for order in shuffled]

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, from 0."""
        ramp = math.ceil(RAMP * steps)
        share = (step + 1) / ramp if step < ramp else (steps - step) / (steps - ramp + 1)
        return self.learning_rate * share


def warm_up(
    folder: Path,
    per_example: PerExampleGradients,
    rows: Any,
    usable: Int64[Tensor, " m"],
    plan: WarmUpPlan,
    *,
    max_length: int,
    batch_size: int,
) -> None:
    """Run what `folder` does not hold yet; afterwards it holds a checkpoint per epoch, and the weights are as before.

    A file damaged on disk is made again, by the whole run.

    AdamW without weight decay or dropout, on the layers whose gradients `per_example` computes.

    Args:
        folder: Where the checkpoints go.
        per_example: The gradients of the model.
        rows: Tokenized rows.
        usable: Positions of those with a labeled token.
        plan: Which rows, how long, how fast.
        max_length: Tokens per row at most.
        batch_size: Rows per forward pass; it changes the rounding alone.
    """
    orders = plan.orders(usable)
    per_epoch, steps = len(orders[0]), sum(map(len, orders))
    if checkpoint_path(folder, plan.epochs).exists() and _is_complete(folder, plan, per_epoch):
        _state_path(folder).unlink(missing_ok=True)
        return
    trainer = ProxyTrainer(per_example, plan.learning_rate, 0.0)
    try:
        first = _resume(folder, trainer)
        started = last_save = time.monotonic()
        with tqdm(total=steps, initial=first, unit="step", desc="Warm-up") as bar:
            for step in range(first, steps):
                epoch, epoch_step = divmod(step, per_epoch)
                if plan.snapshots and step == 0:
                    _save_snapshot(folder, trainer, 0)
                trainer.optimizer.param_groups[0]["lr"] = plan.rate(step, steps)
                step_rows = orders[epoch][epoch_step]
                trainer.step(list(token_batches(rows, step_rows, batch_size, max_length, RowCounts())))
                bar.update()
                if plan.snapshots and _is_due(epoch_step, per_epoch):
                    _save_snapshot(folder, trainer, step + 1)
                if epoch_step + 1 == per_epoch:
                    mean = sum(plan.rate(epoch * per_epoch + each, steps) for each in range(per_epoch)) / per_epoch
                    _save_checkpoint(folder, trainer, epoch + 1, mean)
                if step == first:
                    seconds = (time.monotonic() - started) * (steps - first)
                    logger.info("%d steps: about %.0f s", steps, seconds)
                    announce_if_long(
                        f"a warm-up run of {steps - first:,} steps", seconds, "if stopped, it goes on there"
                    )
                if time.monotonic() - last_save >= SAVE_SECONDS or epoch_step + 1 == per_epoch:
                    save_safetensors_atomically(_state_path(folder), trainer.state(), {"step": str(step + 1)})
                    last_save = time.monotonic()
    finally:
        trainer.restore_initial()
    _state_path(folder).unlink(missing_ok=True)


def checkpoint_path(folder: Path, epoch: int) -> Path:
    """Where the checkpoint behind an epoch, from 1, is."""
    return folder / f"checkpoint-{epoch:05d}.safetensors"


def snapshot_paths(folder: Path, epoch: int, per_epoch: int) -> list[Path]:
    """Where the snapshots of an epoch are, with the one it began from."""
    first = (epoch - 1) * per_epoch
    steps = [0, *(step + 1 for step in range(per_epoch) if _is_due(step, per_epoch))]
    return [_snapshot_path(folder, first + step) for step in steps]


def read_snapshot(path: Path) -> Tensor:
    """The weights of a snapshot, (p,)."""
    return load_file(path)["weights"]


def _is_due(step: int, per_epoch: int) -> bool:
    """Whether a snapshot follows this step of the epoch: one always follows the last, so that epochs join."""
    if step + 1 == per_epoch or per_epoch <= SNAPSHOTS:
        return True
    return (step + 1) * SNAPSHOTS // per_epoch > step * SNAPSHOTS // per_epoch


def _is_complete(folder: Path, plan: WarmUpPlan, per_epoch: int) -> bool:
    """Whether everything that a finished run leaves can be read."""
    epochs = range(1, plan.epochs + 1)
    paths = [checkpoint_path(folder, epoch) for epoch in epochs]
    if plan.snapshots:
        paths += [path for epoch in epochs for path in snapshot_paths(folder, epoch, per_epoch)]
    return all(map(is_valid_safetensors, paths))


def _resume(folder: Path, trainer: ProxyTrainer) -> int:
    path = _state_path(folder)
    if not is_valid_safetensors(path):
        return 0
    with safe_open(path, "pt") as state:
        trainer.restore({name: state.get_tensor(name) for name in state.keys()})  # noqa: SIM118 — no mapping
        step = int(state.metadata()["step"])
    logger.info("warm-up goes on after step %d", step)
    return step


def _save_checkpoint(folder: Path, trainer: ProxyTrainer, epoch: int, rate: float) -> None:
    """Weights and moments by the weights' names."""
    names = [f"{layer.name}.weight" for layer in trainer.per_example.layers]
    tensors = {}
    for name, weight in zip(names, trainer.weights, strict=True):
        state = trainer.optimizer.state[weight]
        tensors[f"weight.{name}"] = weight.detach().clone()
        tensors[f"first.{name}"] = state["exp_avg"].detach().clone()
        tensors[f"second.{name}"] = state["exp_avg_sq"].detach().clone()
    save_safetensors_atomically(checkpoint_path(folder, epoch), tensors, {"rate": repr(rate)})


def _save_snapshot(folder: Path, trainer: ProxyTrainer, step: int) -> None:
    layers = trainer.per_example.layers
    weights = {f"{layer.name}.weight": weight for layer, weight in zip(layers, trainer.weights, strict=True)}
    save_safetensors_atomically(_snapshot_path(folder, step), {"weights": weight_vector(layers, weights)}, {})


def _snapshot_path(folder: Path, step: int) -> Path:
    return folder / f"snapshot-{step:06d}.safetensors"


def _state_path(folder: Path) -> Path:
    return folder / "state.safetensors"
