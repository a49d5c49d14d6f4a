"""Checkpoints of a run, a Trainer's or a warm-up's: weights, Adam moments, learning rates, snapshots."""

import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from hf_gip.core.gtp import RATES, check_rates
from hf_gip.core.validation import as_list, brief
from hf_gip.features.adam import AdamMoments
from hf_gip.features.per_example_gradients import Layer
from hf_gip.features.snapshot_pca import weight_vector
from hf_gip.features.warmup import WarmUpPlan, checkpoint_path, read_snapshot, snapshot_paths

ADAPTER = "adapter_config.json"
OPTIMIZER = "optimizer.pt"
STATE = "trainer_state.json"
MIN_SNAPSHOTS = 3  # checkpoints, where they are the snapshots themselves


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One state of a run; what is large is read when asked for.

    Attributes:
        name: For progress and the record.
        learning_rate: The mean learning rate of the steps that led to it.
        weights: The weights that were trained, by the model's own parameter names.
        moments: Adam's running moments.
        snapshots: Weights of these layers along the run up to here, (p,) each: their differences say where it moves.
    """

    name: str
    learning_rate: float
    weights: Callable[[], dict[str, Tensor]]
    moments: Callable[[], AdamMoments]
    snapshots: Callable[[Sequence[Layer]], list[Tensor]]


def adapter_folder(folders: Sequence[str | Path] | None) -> Path | None:
    """A folder that tells the shape of the LoRA layers, where the checkpoints hold such."""
    first = Path(folders[0]) if folders else None
    return first if first is not None and (first / ADAPTER).exists() else None


@contextmanager
def with_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """`model` with these weights, afterwards with its own."""
    parameters = {name: tensor for name, tensor in model.state_dict().items() if name in weights}
    before = {name: tensor.detach().clone() for name, tensor in parameters.items()}
    try:
        with torch.no_grad():
            for name, tensor in parameters.items():
                tensor.copy_(weights[name])
        yield model
    finally:
        with torch.no_grad():
            for name, tensor in parameters.items():
                tensor.copy_(before[name])


def trainer_checkpoints(
    folders: Sequence[str | Path], model: nn.Module, learning_rates: Sequence[float] | None
) -> list[Checkpoint]:
    """Those a Trainer saved, `checkpoint-…` folders of one run.

    Args:
        folders: The folders, in the order of the run.
        model: The model they belong to, with LoRA layers of their shape if they hold an adapter.
        learning_rates: Learning rate of each; None: the mean of those the run logged since the folder before.
    """
    paths = [Path(folder) for folder in folders]
    rates = _logged_learning_rates(paths) if learning_rates is None else list(learning_rates)
    return [
        Checkpoint(
            path.name,
            rate,
            partial(_read_weights, path, model),
            partial(_read_moments, path, model),
            # the run up to here, and at the beginning as far as it takes to differ in two directions
            partial(_read_snapshots, paths[: max(number + 1, MIN_SNAPSHOTS)], model),
        )
        for number, (path, rate) in enumerate(zip(paths, rates, strict=True))
    ]


def _read_snapshots(folders: Sequence[Path], model: nn.Module, layers: Sequence[Layer]) -> list[Tensor]:
    return [weight_vector(layers, _read_weights(folder, model)) for folder in folders]


def warm_checkpoints(folder: Path, plan: WarmUpPlan, steps: int) -> list[Checkpoint]:
    """Those of a finished warm-up run of `steps` steps an epoch."""
    return [_warm_checkpoint(folder, epoch, steps) for epoch in range(1, plan.epochs + 1)]


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


# --- what the folders hold -------------------------------------------------------------------------------------------


def _weight_files(folder: Path) -> list[Path]:
    """Its weights in safetensors, a model's or an adapter's."""
    return [path for path in sorted(folder.glob("*.safetensors")) if path.name.startswith(("model", "adapter_model"))]


def _read_weights(folder: Path, model: nn.Module) -> dict[str, Tensor]:
    """The folder's weights by the names of `model`'s parameters.

    Raises:
        ValueError: If a weight has no place in the model.
    """
    weights: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        try:
            weights |= load_file(path)
        except (SafetensorError, OSError) as error:
            _refuse_damaged(path, error)
    if (folder / ADAPTER).exists():
        adapter = _adapter_name(model)
        weights = {
            re.sub(r"(lora_\w+)\.weight$", rf"\1.{adapter}.weight", name): each for name, each in weights.items()
        }
    else:
        # what each weight was called before LoRA layers were put around it
        under = {
            name.removeprefix("base_model.model.").replace(".base_layer.", "."): name
            for name in model.state_dict()
            if ".lora_" not in name
        }
        weights = {under.get(name, name): each for name, each in weights.items()}
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for name, tensor in weights.items():
        if shapes.get(name) != tensor.shape:
            expected = tuple(shapes[name]) if name in shapes else "no such weight"
            raise ValueError(
                f"`checkpoints` must be of `model`, got {name} of shape {tuple(tensor.shape)} in {folder.name!r} "
                f"where the model has {expected}: give the model they were trained from."
            )
    return weights


def _adapter_name(model: nn.Module) -> str:
    """The name of the model's LoRA adapter.

    Raises:
        ValueError: If it has none, as layers of its own were named, or more than one.
    """
    names = {name for module in model.modules() for name in getattr(module, "lora_A", {})}
    if not names:
        raise ValueError(
            '`target_modules` must be "lora" for checkpoints of LoRA layers, got others of a model without LoRA: '
            "leave it out."
        )
    if len(names) > 1:
        raise ValueError(
            f"`model` must have the one LoRA adapter of `checkpoints`, got {sorted(names)}: give the base model."
        )
    return str(next(iter(names)))


def _read_moments(folder: Path, model: nn.Module) -> AdamMoments:
    """Adam's moments by parameter name. The optimizer numbers parameters as the Trainer handed them over.

    Raises:
        ValueError: If the folder holds no state of an Adam over the weights it holds.
    """
    _check_optimizer(folder)
    state = _read_optimizer(folder / OPTIMIZER)
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


def _read_optimizer(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise many kinds
        _refuse_damaged(path, error, ", or add `adam=False` for plain gradients")


def _logged_learning_rates(folders: Sequence[Path]) -> list[float]:
    """The mean learning rate since the checkpoint before, from what the Trainer logged.

    Raises:
        ValueError: If it logged none.
    """
    states = [_trainer_state(folder) for folder in folders]
    ends = [state["global_step"] for state in states]
    learning_rates = []
    for folder, state, end in zip(folders, states, ends, strict=True):
        begin = max((other for other in ends if other < end), default=0)
        logged = [
            entry["learning_rate"]
            for entry in state["log_history"]
            if "learning_rate" in entry and begin < entry["step"] <= end
        ]
        if not logged:
            raise ValueError(
                f"`learning_rates` must be given, got no learning rate logged in {folder.name!r} after step {begin}: "
                "pass one per checkpoint."
            )
        learning_rates.append(sum(logged) / len(logged))
    return learning_rates


def _trainer_state(folder: Path) -> dict[str, Any]:
    """What the Trainer noted.

    Raises:
        ValueError: If there is nothing, or it is damaged.
    """
    path = folder / STATE
    if not path.exists():
        raise ValueError(
            f"`learning_rates` must be given, got no {STATE} in {folder.name!r}: pass one per checkpoint."
        )
    try:
        state = json.loads(path.read_text())
        return {"global_step": int(state["global_step"]), "log_history": list(state["log_history"])}
    except (ValueError, KeyError, TypeError, OSError) as error:
        _refuse_damaged(path, error, ", or pass `learning_rates`, one per checkpoint")


# --- checks before long work -----------------------------------------------------------------------------------------


def check_folders(
    folders: Any,
    learning_rates: Sequence[float] | None,
    *,
    model: Any,
    target_modules: str = "lora",
    snapshots: bool = False,
    adam: bool = False,
) -> None:
    """Raise unless `folders` are checkpoints of one run of a Trainer that hold what is asked of them.

    Args:
        folders: What was given.
        learning_rates: Learning rates, one a folder; None: those that the run logged.
        model: The model they are of, or its name.
        target_modules: Whose gradients are asked for.
        snapshots: Whether directions of the run are asked for.
        adam: Whether Adam's moments are asked for.

    Raises:
        TypeError: If they are no list of folders.
        ValueError: If a folder is not there, holds no weights or damaged files, or the folders do not go together.
    """
    paths = _as_paths(folders, MIN_SNAPSHOTS if snapshots else 1)
    if learning_rates is not None:
        check_rates(as_list("learning_rates", learning_rates, RATES), len(paths))
    _check_distinct(paths)
    _check_kind(paths, model, target_modules)
    if target_modules == "lora" and (adam or snapshots):
        _check_lora(paths, *(("adam=True", "adam=False") if adam else ('subspace="snapshots"', 'subspace="random"')))
    _check_order(paths, learning_rates)
    for path in paths:
        _check_weights(path)
        if adam:
            _check_optimizer(path)


def _as_paths(folders: Any, minimum: int) -> list[Path]:
    """What was given as paths.

    Raises:
        TypeError: If it is no list of folders.
        ValueError: If there are too few.
    """
    folders = as_list("checkpoints", folders, "a list of a Trainer's checkpoint folders")
    if len(folders) < minimum:
        raise ValueError(
            f"`checkpoints` must hold at least {minimum} folder(s), got {len(folders)}: save more often, or leave it "
            "out."
        )
    if wrong := [folder for folder in folders if not isinstance(folder, str | Path)]:
        raise TypeError(f"`checkpoints` must be a list of folders, got {brief(wrong[0])} in it.")
    return [Path(folder) for folder in folders]


def _check_distinct(paths: Sequence[Path]) -> None:
    """Raise unless each folder holds weights and is named once.

    Raises:
        ValueError: Naming the folder.
    """
    for path in paths:
        if not _weight_files(path):
            raise ValueError(
                f"`checkpoints` must be folders that a Trainer saved, got {str(path)!r} without weights in "
                "safetensors: name its `checkpoint-…` folders."
            )
    for number, folder in enumerate(paths):
        if folder.resolve() in [other.resolve() for other in paths[:number]]:
            raise ValueError(f"`checkpoints` must name every folder once, got {str(folder)!r} twice: leave one out.")


def _check_kind(folders: Sequence[Path], model: Any, target_modules: str) -> None:
    """Raise unless all folders hold LoRA layers, or none does, and `target_modules` are among what they hold.

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
        _check_adapter(folder)
    if target_modules != "lora" and _is_bare(model):
        raise ValueError(
            f'`target_modules` must be "lora" for checkpoints of LoRA layers, got {brief(target_modules)} with '
            f"{str(adapters[0])!r}: leave it out, or name checkpoints of whole weights."
        )


def _is_bare(model: Any) -> bool:
    """Whether a model is known to have no LoRA layers of its own; one on the Hub is not known before it is loaded."""
    if isinstance(model, nn.Module):
        return not any(hasattr(module, "lora_A") for module in model.modules())
    return isinstance(model, str | Path) and Path(model).is_dir() and not (Path(model) / ADAPTER).exists()


def _check_adapter(folder: Path) -> None:
    """Raise unless its adapter's shape can be read.

    Raises:
        ValueError: If the adapter is of another kind.
    """
    path = folder / ADAPTER
    try:
        kind = json.loads(path.read_text())["peft_type"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        _refuse_damaged(path, error)
    if kind != "LORA":
        raise ValueError(
            f"`checkpoints` must hold LoRA layers or whole weights, got {kind!r} in {str(path)!r}: train with LoRA."
        )


def _check_lora(folders: Sequence[Path], option: str, instead: str) -> None:
    """Raise unless all folders hold LoRA layers.

    Raises:
        ValueError: If one holds whole weights.
    """
    if whole := [folder for folder in folders if not (folder / ADAPTER).exists()]:
        raise ValueError(
            f"`{option}` must have checkpoints of LoRA layers, got {str(whole[0])!r} with whole weights: name "
            f'the layers to read, such as `target_modules="*.down_proj"`, or give `{instead}`.'
        )


def _check_order(folders: Sequence[Path], learning_rates: Sequence[float] | None) -> None:
    """Raise unless the folders are in the run's order and their rates are known.

    Where `learning_rates` are given a folder need not tell its step.

    Raises:
        ValueError: Naming the two folders, or the one that tells no learning rate.
    """
    if learning_rates is None:
        _logged_learning_rates(folders)
    steps = [(folder, step) for folder in folders if (step := _saved_step(folder)) is not None]
    for (folder, step), (after, later) in pairwise(steps):
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


def _saved_step(folder: Path) -> int | None:
    """The step at which a checkpoint was saved; None where it does not tell."""
    try:
        return int(json.loads((folder / STATE).read_text())["global_step"])
    except (ValueError, KeyError, TypeError, OSError):
        return None


def _check_weights(folder: Path) -> None:
    """Raise unless its weights are whole, as far as names and headers can tell.

    Raises:
        ValueError: If there are fewer shards than their names say.
    """
    paths = _weight_files(folder)
    parts = [int(match[1]) for path in paths if (match := re.search(r"-of-(\d+)\.safetensors$", path.name))]
    if parts and len(parts) < max(parts):
        raise ValueError(
            f"`checkpoints` must be folders with whole files, got {len(parts)} of {max(parts)} shards of weights in "
            f"{str(folder)!r}: name a checkpoint that was saved to its end."
        )
    for path in paths:
        try:
            with safe_open(path, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            _refuse_damaged(path, error)


def _check_optimizer(folder: Path) -> None:
    """Raise unless the optimizer's state is there and whole, as far as a glance can tell.

    Raises:
        ValueError: If it is missing.
    """
    path = folder / OPTIMIZER
    if not path.exists():
        raise ValueError(
            f"`checkpoints` must hold the optimizer's state, got no {OPTIMIZER} in {folder.name!r}: save without "
            "`save_only_model`, or add `adam=False` for plain gradients."
        )
    if not zipfile.is_zipfile(path):  # what `torch.save` writes, but for files of its old format
        _read_optimizer(path)


def _refuse_damaged(path: Path, error: Exception, instead: str = "") -> NoReturn:
    """Say which file cannot be read.

    Raises:
        ValueError: Always.
    """
    first_sentence = re.split(r"\n|\. ", str(error).strip())[0].rstrip(".:")  # torch goes on for a page
    reason = f"{type(error).__name__}: {first_sentence}"
    raise ValueError(
        f"`checkpoints` must be folders with whole files, got {str(path)!r}, which cannot be read ({reason}): name a "
        f"checkpoint that was saved to its end{instead}."
    ) from error
