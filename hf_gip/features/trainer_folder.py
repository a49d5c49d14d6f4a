"""What a Trainer leaves in a checkpoint folder: weights, Adam's moments, learning rates."""

import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from hf_gip.features.adam import AdamMoments

ADAPTER = "adapter_config.json"
OPTIMIZER = "optimizer.pt"
STATE = "trainer_state.json"


def weight_files(folder: Path) -> list[Path]:
    """Its weights in safetensors, a model's or an adapter's."""
    return [path for path in sorted(folder.glob("*.safetensors")) if path.name.startswith(("model", "adapter_model"))]


def check_weights(folder: Path) -> None:
    """Raise unless its weights are whole, as far as names and headers can tell.

    Raises:
        ValueError: If there are fewer shards than their names say.
    """
    paths = weight_files(folder)
    parts = [int(found[1]) for path in paths if (found := re.search(r"-of-(\d+)\.safetensors$", path.name))]
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


def check_adapter(folder: Path) -> None:
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


def check_optimizer(folder: Path) -> None:
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


def _read_optimizer(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise many kinds
        _refuse_damaged(path, error, ", or add `adam=False` for plain gradients")


def _refuse_damaged(path: Path, error: Exception, instead: str = "") -> NoReturn:
    """Say which file cannot be read.

    Raises:
        ValueError: Always.
    """
    told = re.split(r"\n|\. ", str(error).strip())[0].rstrip(".:")  # torch goes on for a page
    reason = f"{type(error).__name__}: {told}"
    raise ValueError(
        f"`checkpoints` must be folders with whole files, got {str(path)!r}, which cannot be read ({reason}): name a "
        f"checkpoint that was saved to its end{instead}."
    ) from error


def read_weights(folder: Path, model: nn.Module) -> dict[str, Tensor]:
    """The folder's weights by the names of `model`'s parameters.

    Raises:
        ValueError: If a weight has no place in the model.
    """
    found: dict[str, Tensor] = {}
    for path in weight_files(folder):
        try:
            found |= load_file(path)
        except (SafetensorError, OSError) as error:
            _refuse_damaged(path, error)
    if (folder / ADAPTER).exists():
        adapter = _adapter_name(model)
        found = {re.sub(r"(lora_\w+)\.weight$", rf"\1.{adapter}.weight", name): each for name, each in found.items()}
    else:
        under = {_bare(name): name for name in model.state_dict() if ".lora_" not in name}
        found = {under.get(name, name): each for name, each in found.items()}
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for name, tensor in found.items():
        if shapes.get(name) != tensor.shape:
            own = tuple(shapes[name]) if name in shapes else "no such weight"
            raise ValueError(
                f"`checkpoints` must be of `model`, got {name} of shape {tuple(tensor.shape)} in {folder.name!r} "
                f"where the model has {own}: give the model they were trained from."
            )
    return found


def _bare(name: str) -> str:
    """What a weight was called before LoRA layers were put around it."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _adapter_name(model: nn.Module) -> str:
    """The name of the model's LoRA adapter.

    Raises:
        ValueError: If it has none, as layers of its own were named, or more than one.
    """
    names = {name for module in model.modules() for name in getattr(module, "lora_A", {})}
    if not names:
        raise ValueError(
            '`parameters` must be "lora" for checkpoints of LoRA layers, got others of a model without LoRA: leave it '
            "out."
        )
    if len(names) > 1:
        raise ValueError(
            f"`model` must have the one LoRA adapter of `checkpoints`, got {sorted(names)}: give the base model."
        )
    return str(next(iter(names)))


def read_moments(folder: Path, model: nn.Module) -> AdamMoments:
    """Adam's moments by parameter name. The optimizer numbers parameters as the Trainer handed them over.

    Raises:
        ValueError: If the folder holds no state of an Adam over the weights it holds.
    """
    check_optimizer(folder)
    state = _read_optimizer(folder / OPTIMIZER)
    names = _optimizer_order(model, set(read_weights(folder, model)))
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


def logged_rates(folders: Sequence[Path]) -> list[float]:
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
                f"`rates` must be given, got no learning rate logged in {folder.name!r} after step {begin}: pass one "
                "per checkpoint."
            )
        rates.append(sum(logged) / len(logged))
    return rates


def saved_step(folder: Path) -> int | None:
    """The step at which a checkpoint was saved; None where it does not tell."""
    try:
        return int(json.loads((folder / STATE).read_text())["global_step"])
    except (ValueError, KeyError, TypeError, OSError):
        return None


def _trainer_state(folder: Path) -> dict[str, Any]:
    """What the Trainer noted.

    Raises:
        ValueError: If there is nothing, or it is damaged.
    """
    path = folder / STATE
    if not path.exists():
        raise ValueError(f"`rates` must be given, got no {STATE} in {folder.name!r}: pass one per checkpoint.")
    try:
        state = json.loads(path.read_text())
        return {"global_step": int(state["global_step"]), "log_history": list(state["log_history"])}
    except (ValueError, KeyError, TypeError, OSError) as error:
        _refuse_damaged(path, error, ", or pass `rates`, one per checkpoint")
