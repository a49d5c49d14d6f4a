"""States of one training run, of a warm-up run or a Trainer's folders: weights, Adam's moments, learning rate."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from hf_gip.features.adam import AdamMoments
from hf_gip.features.folder_checks import FEWEST
from hf_gip.features.layers import Layer
from hf_gip.features.subspace import weight_vector
from hf_gip.features.trainer_folder import ADAPTER, logged_rates, read_moments, read_weights
from hf_gip.features.warmup import WarmUpPlan, checkpoint_path, read_snapshot, snapshot_paths


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One state of a run; what is large is read when asked for.

    Attributes:
        name: For progress and the record.
        rate: The mean learning rate of the steps that led to it.
        weights: The weights that were trained, by the model's own parameter names.
        moments: Adam's running moments.
        snapshots: Weights of these layers along the run up to here, (p,) each: their differences say where it moves.
    """

    name: str
    rate: float
    weights: Callable[[], dict[str, Tensor]]
    moments: Callable[[], AdamMoments]
    snapshots: Callable[[Sequence[Layer]], list[Tensor]]


def warm_checkpoints(folder: Path, plan: WarmUpPlan, steps: int) -> list[Checkpoint]:
    """Those of a finished warm-up run of `steps` steps an epoch."""
    return [_warm_checkpoint(folder, epoch, steps) for epoch in range(1, plan.epochs + 1)]


def trainer_checkpoints(
    folders: Sequence[str | Path], model: nn.Module, rates: Sequence[float] | None
) -> list[Checkpoint]:
    """Those a Trainer saved, `checkpoint-…` folders of one run.

    Args:
        folders: The folders, in the order of the run.
        model: The model they belong to, with LoRA layers of their shape if they hold an adapter.
        rates: Learning rate of each; None: the mean of those the run logged since the folder before.
    """
    paths = [Path(folder) for folder in folders]
    found = logged_rates(paths) if rates is None else list(rates)
    return [
        Checkpoint(
            path.name,
            rate,
            partial(read_weights, path, model),
            partial(read_moments, path, model),
            # the run up to here, and at the beginning as far as it takes to differ in two directions
            partial(_read_snapshots, paths[: max(number + 1, FEWEST)], model),
        )
        for number, (path, rate) in enumerate(zip(paths, found, strict=True))
    ]


def adapter_folder(folders: Sequence[str | Path] | None) -> Path | None:
    """A folder that tells the shape of the LoRA layers, where the checkpoints hold such."""
    first = Path(folders[0]) if folders else None
    return first if first is not None and (first / ADAPTER).exists() else None


@contextmanager
def at(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """`model` with these weights, afterwards with its own."""
    own = {name: tensor for name, tensor in model.state_dict().items() if name in weights}
    before = {name: tensor.detach().clone() for name, tensor in own.items()}
    try:
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(weights[name])
        yield model
    finally:
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(before[name])


def _warm_checkpoint(folder: Path, epoch: int, steps: int) -> Checkpoint:
    path = checkpoint_path(folder, epoch)

    def part(kind: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(f"{kind}."): tensor
            for name, tensor in load_file(path).items()
            if name.startswith(f"{kind}.")
        }

    with safe_open(path, "pt") as file:
        rate = float(file.metadata()["rate"])
    return Checkpoint(
        f"epoch {epoch}",
        rate,
        lambda: part("weight"),
        lambda: AdamMoments(part("first"), part("second")),
        lambda layers: [read_snapshot(each) for each in snapshot_paths(folder, epoch, steps)],
    )


def _read_snapshots(folders: Sequence[Path], model: nn.Module, layers: Sequence[Layer]) -> list[Tensor]:
    return [weight_vector(layers, read_weights(folder, model)) for folder in folders]
