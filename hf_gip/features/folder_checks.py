"""Whether folders are a Trainer's checkpoints of one run, whole, in its order, and fit what is asked of them."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import nn

from hf_gip.core.gtp import RATES, check_rates
from hf_gip.core.validation import as_list, brief
from hf_gip.features.trainer_folder import (
    ADAPTER,
    check_adapter,
    check_optimizer,
    check_weights,
    logged_rates,
    saved_step,
    weight_files,
)

FEWEST = 3  # checkpoints, where they are the snapshots themselves


def check_folders(
    folders: Any,
    rates: Sequence[float] | None,
    *,
    model: Any,
    parameters: str = "lora",
    snapshots: bool = False,
    adam: bool = False,
) -> None:
    """Raise unless `folders` are checkpoints of one run of a Trainer that hold what is asked of them.

    Args:
        folders: What was given.
        rates: Learning rates, one a folder; None: those that the run logged.
        model: The model they are of, or its name.
        parameters: Whose gradients are asked for.
        snapshots: Whether directions of the run are asked for.
        adam: Whether Adam's moments are asked for.

    Raises:
        TypeError: If they are no list of folders.
        ValueError: If a folder is not there, holds no weights or damaged files, or the folders do not go together.
    """
    paths = _as_paths(folders, FEWEST if snapshots else 1)
    if rates is not None:
        check_rates(as_list("rates", rates, RATES), len(paths))
    _check_there(paths)
    _check_kind(paths, model, parameters)
    if parameters == "lora" and (adam or snapshots):
        _check_lora(paths, *(("adam=True", "adam=False") if adam else ('subspace="snapshots"', 'subspace="random"')))
    _check_order(paths, rates)
    for path in paths:
        check_weights(path)
        if adam:
            check_optimizer(path)


def _as_paths(folders: Any, fewest: int) -> list[Path]:
    """What was given as paths.

    Raises:
        TypeError: If it is no list of folders.
        ValueError: If there are too few.
    """
    if isinstance(folders, str | bytes | Path) or not isinstance(folders, Sequence):
        raise TypeError(f"`checkpoints` must be a list of a Trainer's checkpoint folders, got {brief(folders)}.")
    if len(folders) < fewest:
        raise ValueError(
            f"`checkpoints` must hold at least {fewest} folder(s), got {len(folders)}: save more often, or leave it "
            "out."
        )
    if wrong := [folder for folder in folders if not isinstance(folder, str | Path)]:
        raise TypeError(f"`checkpoints` must be a list of folders, got {brief(wrong[0])} in it.")
    return [Path(folder) for folder in folders]


def _check_there(paths: Sequence[Path]) -> None:
    """Raise unless each folder holds weights and is named once.

    Raises:
        ValueError: Naming the folder.
    """
    for path in paths:
        if not weight_files(path):
            raise ValueError(
                f"`checkpoints` must be folders that a Trainer saved, got {str(path)!r} without weights in "
                "safetensors: name its `checkpoint-…` folders."
            )
    for number, folder in enumerate(paths):
        if folder.resolve() in [other.resolve() for other in paths[:number]]:
            raise ValueError(f"`checkpoints` must name every folder once, got {str(folder)!r} twice: leave one out.")


def _check_kind(folders: Sequence[Path], model: Any, parameters: str) -> None:
    """Raise unless all folders hold LoRA layers, or none does, and `parameters` are among what they hold.

    Raises:
        ValueError: Naming a folder of either kind, or what LoRA layers go with.
    """
    adapters = [folder for folder in folders if (folder / ADAPTER).exists()]
    if not adapters:
        return
    if whole := [folder for folder in folders if folder not in adapters]:
        raise ValueError(
            f"`checkpoints` must be of one run, got LoRA layers in {str(adapters[0])!r} and whole weights in "
            f"{str(whole[0])!r}: leave out those of the other run."
        )
    for folder in adapters:
        check_adapter(folder)
    if parameters != "lora" and _is_bare(model):
        raise ValueError(
            f'`parameters` must be "lora" for checkpoints of LoRA layers, got {brief(parameters)} with '
            f"{str(adapters[0])!r}: leave it out, or name checkpoints of whole weights."
        )


def _is_bare(model: Any) -> bool:
    """Whether a model is known to have no LoRA layers of its own; one on the Hub is not known before it is loaded."""
    if isinstance(model, nn.Module):
        return not any(hasattr(module, "lora_A") for module in model.modules())
    return isinstance(model, str | Path) and Path(model).is_dir() and not (Path(model) / ADAPTER).exists()


def _check_lora(folders: Sequence[Path], asked: str, instead: str) -> None:
    """Raise unless all folders hold LoRA layers.

    Raises:
        ValueError: If one holds whole weights.
    """
    if whole := [folder for folder in folders if not (folder / ADAPTER).exists()]:
        raise ValueError(
            f"`{asked}` must have checkpoints of LoRA layers, got {str(whole[0])!r} with whole weights: name "
            f'the layers to read, such as `parameters="*.down_proj"`, or give `{instead}`.'
        )


def _check_order(folders: Sequence[Path], rates: Sequence[float] | None) -> None:
    """Raise unless the folders are in the run's order and their rates are known.

    Where `rates` are given a folder need not tell its step.

    Raises:
        ValueError: Naming the two folders, or the one that tells no learning rate.
    """
    if rates is None:
        logged_rates(folders)
    known = [(folder, step) for folder in folders if (step := saved_step(folder)) is not None]
    for (folder, step), (after, later) in pairwise(known):
        if step > later:
            raise ValueError(
                f"`checkpoints` must be in the order of the run, got {folder.name!r} (step {step}) before "
                f"{after.name!r} (step {later}): sort them by step."
            )
        if step == later:
            raise ValueError(
                f"`checkpoints` must be of one run, got {str(folder)!r} and {str(after)!r} both at step {step}: leave "
                "one out."
            )
