"""One pass of the model in training over many rows: what it makes of each.

The pass goes through the trainer's *wrapped* model, so DDP, FSDP and ZeRO gather their shards as in training, and
every process runs the same number of equally large batches. A hook on the backbone reduces each batch to one vector a
row before the next one starts.
"""

import dataclasses
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import send_to_device
from accelerate.utils.memory import clear_device_cache
from datasets import Dataset
from datasets.utils import tqdm
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer
from trl.trainer.sft_trainer import SFTTrainer

from .host import packing_of, served_columns, wrapped_model
from .probe import Family, Probe

FLUSH = 32  # batches whose vectors wait on the device, so that copying does not stall it


@dataclasses.dataclass(frozen=True)
class RowVectors:
    """What a pass found, on the main process.

    Attributes:
        features: One vector a row, (n, d), float32, on the CPU.
        losses: Mean loss over each row's labelled tokens, (n,), where it was asked for.
    """

    features: Tensor
    losses: Tensor | None


def read_rows(
    trainer: Trainer, rows: Dataset, lengths: Tensor, family: Family, *, losses: bool = False, name: str = "rows"
) -> RowVectors | None:
    """Features of `rows` under the model in training.

    `hidden` is the mean of the last hidden states over the labelled tokens, (H,). `hidden_gradient` is the gradient
    of the row's mean loss by those states, summed over its tokens, (H,): Wᵀ(p − y) averaged, the backward pass ending
    at the head; `last_layer_gradient` the one by the head's weight, which needs the logits. One pass over the backbone
    for each of them. `lora_gradient` is the gradient by all active LoRA weights, exact, and costs a whole backward.
    Gradients of weights are projected to (1024,) by signs that depend on the run's seed alone.

    Memory beside the model: one batch (for `lora_gradient` with its graph) and the (n, d) result.

    Nothing is left behind: modes, gradients and random states are as they were, cached device memory is given back.

    Args:
        trainer: The trainer whose wrapped model is asked.
        rows: Prepared rows.
        lengths: Their tokens, (n,): batches are made of rows of like length, longest first.
        family: Which features.
        losses: Whether to return each row's loss too.
        name: What the progress bar calls them.

    Returns:
        The vectors on the main process, None on the others.
    """
    batches = _batches(lengths, trainer.args.per_device_eval_batch_size, trainer.accelerator.num_processes)
    found = _Collected(len(rows), losses, trainer.accelerator.is_main_process)
    with _as_found(trainer), Probe(trainer, family, losses) as probe, torch.no_grad():
        for index, batch in enumerate(_load(trainer, rows, batches, name)):
            _check_lines(batch, len(batches[index]) // trainer.accelerator.num_processes)
            everyone: Any = trainer.accelerator.gather(probe(batch))
            found.add(batches[index], everyone)
    clear_device_cache()
    return found.vectors()


def _batches(lengths: Tensor, size: int, ranks: int) -> list[list[int]]:
    """Rows of like length together, longest first, (steps, ranks × size): every rank gets as many as every other.

    Short of a full step the shortest row is repeated: its later results overwrite the first with the same.
    """
    order = torch.argsort(lengths, descending=True, stable=True).tolist()
    step = size * ranks
    if len(order) < step:  # few rows: no need to repeat more than evens out the ranks
        step = ranks * -(-len(order) // ranks)
    order += order[-1:] * (-len(order) % step)
    return [order[start : start + step] for start in range(0, len(order), step)]


def _load(trainer: Trainer, rows: Dataset, batches: list[list[int]], name: str) -> Iterator[dict[str, Any]]:
    """This rank's share of every step, collated and on the device."""
    accelerator = trainer.accelerator
    share = len(batches[0]) // accelerator.num_processes
    mine = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    loader = DataLoader(
        cast(Any, served_columns(trainer, rows)),
        batch_sampler=[batch[mine] for batch in batches],
        collate_fn=_collator(trainer),
        num_workers=trainer.args.dataloader_num_workers,
        pin_memory=trainer.args.dataloader_pin_memory and accelerator.device.type == "cuda",
        generator=torch.Generator(),
    )
    hidden = trainer.args.disable_tqdm or not accelerator.is_main_process
    with tqdm(total=len(rows), desc=f"Reading {name}", unit="row", disable=hidden) as bar:
        for batch in loader:
            yield dict(send_to_device(batch, accelerator.device, non_blocking=True))
            bar.update(min(len(batches[0]), len(rows) - bar.n))


def _collator(trainer: Trainer) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """The trainer's own, one line a row where TRL's would run rows together, cut where a pack would be."""
    collator: Any = trainer.data_collator
    if not isinstance(trainer, SFTTrainer):
        return collator
    if getattr(collator, "padding_free", False):
        collator = dataclasses.replace(collator, padding_free=False)
    packing = packing_of(trainer)
    return collator if packing is None else partial(_cut, collator, packing.length)


def _check_lines(batch: dict[str, Any], rows: int) -> None:
    """Raise unless a batch has a line for each of its rows.

    Raises:
        ValueError: If the collator runs them together.
    """
    tokens = batch.get("input_ids")
    if isinstance(tokens, Tensor) and len(tokens) != rows:
        raise ValueError(
            f"`data_collator` must make one line of each row, got {len(tokens)} line(s) of {rows} row(s): give one "
            "that pads, or let TRL run rows together (`padding_free=True`, without `data_collator`)."
        )


def _cut(collator: Callable[..., dict[str, Any]], length: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return collator([{name: values[:length] for name, values in row.items()} for row in rows])


class _Collected:
    """The rows' vectors, gathered batch by batch on the main process."""

    def __init__(self, rows: int, losses: bool, here: bool) -> None:
        self.rows, self.here = rows, here
        self.waiting: list[tuple[list[int], Tensor]] = []
        self.features = torch.empty(0)
        self.losses = torch.empty(rows) if losses else None

    def add(self, rows: list[int], values: Tensor) -> None:
        if not self.here:
            return
        self.waiting.append((rows, values))
        if len(self.waiting) == FLUSH:
            self.flush()

    def flush(self) -> None:
        for rows, values in self.waiting:
            found = values.float().cpu()
            if self.losses is not None:
                self.losses[rows] = found[:, -1]
                found = found[:, :-1]
            if not len(self.features):
                self.features = torch.empty(self.rows, found.shape[1])
            self.features[rows] = found
        self.waiting.clear()

    def vectors(self) -> RowVectors | None:
        self.flush()
        return RowVectors(self.features, self.losses) if self.here else None


@contextmanager
def _as_found(trainer: Trainer) -> Iterator[None]:
    """Evaluation mode inside; every module's own mode and every random state as before outside."""
    model = wrapped_model(trainer)
    modes = [(module, module.training) for module in model.modules()]
    restore = random_states()
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        restore()


def random_states() -> Callable[[], None]:
    """A call that puts every global random state back to what it is now."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    device = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if device:
            torch.cuda.set_rng_state_all(device)

    return restore
