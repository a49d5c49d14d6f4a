"""States of one training run, of a warm-up run or a Trainer's folders: weights, Adam's moments, learning rate."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from hf_gip.features.adam import AdamMoments
from hf_gip.features.encoders import folder_digest
from hf_gip.features.identity import content_id
from hf_gip.features.layers import Layer
from hf_gip.features.subspace import weight_vector
from hf_gip.features.warmup import WarmUpPlan, checkpoint_path, read_snapshot, snapshot_paths

FEWEST = 3  # checkpoints, where they are the snapshots themselves
ADAPTER = "adapter_config.json"


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
    found = _logged_rates(paths) if rates is None else list(rates)
    return [
        Checkpoint(
            path.name,
            rate,
            partial(_read_weights, path, model),
            partial(_read_moments, path, model),
            # the run up to here, and at the beginning as far as it takes to differ in two directions
            partial(_read_snapshots, paths[: max(number + 1, FEWEST)], model),
        )
        for number, (path, rate) in enumerate(zip(paths, found, strict=True))
    ]


def check_folders(folders: Any, rates: Sequence[float] | None, *, snapshots: bool) -> None:
    """Raise unless `folders` are checkpoints of a Trainer.

    Raises:
        TypeError: If they are no list of folders.
        ValueError: If a folder is not there or holds no weights, or their number does not do.
    """
    if isinstance(folders, str | Path) or not isinstance(folders, Sequence):
        raise TypeError(f"`checkpoints` must be a list of a Trainer's checkpoint folders, got {folders!r}.")
    if not folders or (snapshots and len(folders) < FEWEST):
        fewest = FEWEST if snapshots else 1
        raise ValueError(
            f"`checkpoints` must hold at least {fewest} folder(s), got {len(folders)}: save more often, or leave it "
            "out."
        )
    if rates is not None and len(rates) != len(folders):
        raise ValueError(f"`rates` must hold one learning rate per checkpoint ({len(folders)}), got {len(rates)}.")
    for folder in map(Path, folders):
        if not _weight_files(folder):
            raise ValueError(
                f"`checkpoints` must be folders that a Trainer saved, got {str(folder)!r} without weights in "
                "safetensors: name its `checkpoint-…` folders."
            )


def folders_id(folders: Sequence[str | Path]) -> str:
    """16 hex digits that depend on every file of every folder."""
    return content_id({"folders": [folder_digest(Path(folder)) for folder in folders]})


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
    return [weight_vector(layers, _read_weights(folder, model)) for folder in folders]


def _weight_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.safetensors")) if path.name.startswith(("model", "adapter_model"))]


def _read_weights(folder: Path, model: nn.Module) -> dict[str, Tensor]:
    """The folder's weights by the names of `model`'s parameters.

    Raises:
        ValueError: If a weight has no place in the model.
    """
    found: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        found |= load_file(path)
    if (folder / ADAPTER).exists():
        adapter = _adapter_name(model)
        found = {re.sub(r"(lora_\w+)\.weight$", rf"\1.{adapter}.weight", name): each for name, each in found.items()}
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for name, tensor in found.items():
        if shapes.get(name) != tensor.shape:
            own = tuple(shapes[name]) if name in shapes else "no such weight"
            raise ValueError(
                f"`checkpoints` must be of `model`, got {name} of shape {tuple(tensor.shape)} in {folder.name!r} "
                f"where the model has {own}: give the model they were trained from."
            )
    return found


def _adapter_name(model: nn.Module) -> str:
    """The name of the model's LoRA adapter.

    Raises:
        ValueError: If it has none, or more than one.
    """
    names = {name for module in model.modules() for name in getattr(module, "lora_A", {})}
    if len(names) != 1:
        raise ValueError(
            f"`model` must have the one LoRA adapter of `checkpoints`, got {sorted(names)}: give the base model."
        )
    return str(next(iter(names)))


def _read_moments(folder: Path, model: nn.Module) -> AdamMoments:
    """Adam's moments by parameter name. The optimizer numbers parameters as the Trainer handed them over.

    Raises:
        ValueError: If the folder holds no state of an Adam over the weights it holds.
    """
    path = folder / "optimizer.pt"
    if not path.exists():
        raise ValueError(
            f"`checkpoints` must hold the optimizer's state, got no optimizer.pt in {folder.name!r}: save without "
            "`save_only_model`, or add `adam=False` for plain gradients."
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    names = _optimizer_order(model, set(_read_weights(folder, model)))
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    pairs = [(name, state["state"].get(number, {})) for name, number in zip(names, numbers, strict=False)]
    first = {name: each["exp_avg"] for name, each in pairs if "exp_avg" in each}
    second = {name: each["exp_avg_sq"] for name, each in pairs if "exp_avg_sq" in each}
    if len(names) != len(numbers) or not first or any(first[name].shape != shapes[name] for name in first):
        raise ValueError(
            f"`checkpoints` must hold an Adam state for the weights beside it, got another in {folder.name!r} "
            f"({len(numbers)} parameters for {len(names)} weights): add `adam=False` for plain gradients."
        )
    return AdamMoments(first, second, tuple(state["param_groups"][0]["betas"]))


def _optimizer_order(model: nn.Module, trained: set[str]) -> list[str]:
    """The trained parameters in the Trainer's order: those with weight decay first."""
    from transformers import Trainer

    decayed = set(Trainer.get_decay_parameter_names(cast("Any", None), model))  # it asks nothing of the trainer
    names = [name for name, _ in model.named_parameters() if name in trained]
    return sorted(names, key=lambda name: name not in decayed)


def _logged_rates(folders: Sequence[Path]) -> list[float]:
    """The mean learning rate since the checkpoint before, from what the Trainer logged.

    Raises:
        ValueError: If it logged none.
    """
    states = [_trainer_state(folder) for folder in folders]
    ends = [state["global_step"] for state in states]
    rates = []
    for folder, state, end in zip(folders, states, ends, strict=True):
        begin = max((other for other in ends if other < end), default=0)
        logged = [
            entry["learning_rate"]
            for entry in state["log_history"]
            if "learning_rate" in entry and begin < entry["step"] <= end
        ]
        if not logged:
            raise ValueError(
                f"`rates` must be given, got no learning rate logged in {folder.name!r} after step {begin}: pass "
                "`rates=[…]`, one per checkpoint."
            )
        rates.append(sum(logged) / len(logged))
    return rates


def _trainer_state(folder: Path) -> dict[str, Any]:
    path = folder / "trainer_state.json"
    if not path.exists():
        raise ValueError(f"`rates` must be given, got no trainer_state.json in {folder.name!r}: pass `rates=[…]`.")
    return json.loads(path.read_text())
