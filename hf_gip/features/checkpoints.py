"""States of one training run, of a warm-up run or a Trainer's folders: weights, Adam's moments, learning rate."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from hf_gip.core.checkpoints import RATES, check_rates
from hf_gip.core.checks import as_list, shown
from hf_gip.features.adam import AdamMoments
from hf_gip.features.layers import Layer
from hf_gip.features.subspace import weight_vector
from hf_gip.features.trainer_folder import ADAPTER, logged_rates, read_moments, read_weights, weight_files
from hf_gip.features.warmup import WarmUpPlan, checkpoint_path, read_snapshot, snapshot_paths

FEWEST = 3  # checkpoints, where they are the snapshots themselves


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


def check_folders(
    folders: Any, rates: Sequence[float] | None, *, snapshots: bool, lora: bool = False, adam: bool = False
) -> None:
    """Raise unless `folders` are checkpoints of a Trainer that hold what is asked of them.

    Args:
        folders: What was given.
        rates: Learning rates, one a folder.
        snapshots: Whether directions of the run are asked for.
        lora: Whether it is about the weights of LoRA layers.
        adam: Whether Adam's moments are asked for.

    Raises:
        TypeError: If they are no list of folders.
        ValueError: If a folder is not there or holds no weights, or their number does not do.
    """
    if isinstance(folders, str | bytes | Path) or not isinstance(folders, Sequence):
        raise TypeError(f"`checkpoints` must be a list of a Trainer's checkpoint folders, got {shown(folders)}.")
    if not folders or (snapshots and len(folders) < FEWEST):
        fewest = FEWEST if snapshots else 1
        raise ValueError(
            f"`checkpoints` must hold at least {fewest} folder(s), got {len(folders)}: save more often, or leave it "
            "out."
        )
    if wrong := [folder for folder in folders if not isinstance(folder, str | Path)]:
        raise TypeError(f"`checkpoints` must be a list of folders, got {shown(wrong[0])} in it.")
    if rates is not None:
        check_rates(as_list("rates", rates, RATES), len(folders))
    for folder in map(Path, folders):
        if not weight_files(folder):
            raise ValueError(
                f"`checkpoints` must be folders that a Trainer saved, got {str(folder)!r} without weights in "
                "safetensors: name its `checkpoint-…` folders."
            )
    if lora and (adam or snapshots):
        _check_lora(folders, *(("adam=True", "adam=False") if adam else ('subspace="snapshots"', 'subspace="random"')))


def _check_lora(folders: Sequence[str | Path], asked: str, instead: str) -> None:
    """Raise unless all folders hold LoRA layers.

    Raises:
        ValueError: If one holds whole weights.
    """
    if whole := [folder for folder in folders if not (Path(folder) / ADAPTER).exists()]:
        raise ValueError(
            f"`{asked}` must have checkpoints of LoRA layers, got {str(whole[0])!r} with whole weights: name "
            f'the layers to read, such as `parameters="*.down_proj"`, or give `{instead}`.'
        )


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
