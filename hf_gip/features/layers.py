"""Which layers' gradients are taken, and what passes through them during a forward and a backward pass."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from hf_gip.core.validation import brief


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear layer whose weight gradient is one vector per example.

    Attributes:
        name: Dotted name within the model; the weight is `name.weight`.
        module: The layer itself.
        transposed: Whether the weight is stored as (in, out), as in GPT-2's `Conv1D`.
    """

    name: str
    module: nn.Module
    transposed: bool

    @property
    def shape(self) -> tuple[int, int]:
        """The weight's shape as stored."""
        rows, columns = getattr(self.module, "weight").shape  # noqa: B009 — `nn.Module` hides its type
        return rows, columns


def check_parameters(parameters: object, *, hidden: bool = True) -> None:
    """Raise unless `parameters` can name layers; `hidden` is not named where it is of no use.

    Raises:
        TypeError: If it is no text.
        ValueError: If it is empty.
    """
    what = _known(hidden)
    if not isinstance(parameters, str):
        raise TypeError(f"`parameters` must be {what}, got {brief(parameters)}.")
    if not parameters:
        raise ValueError(f"`parameters` must be {what}, got ''.")


def _known(hidden: bool) -> str:
    return f"lora, last_layer{', hidden' if hidden else ''} or a pattern of layer names"


def find_layers(model: nn.Module, parameters: str, *, hidden: bool = True) -> list[Layer]:
    """The layers that `parameters` names: `"lora"`, `"last_layer"` or a pattern of module names.

    A message names `hidden` among what may be asked for unless told that it is of no use there.

    Raises:
        ValueError: If nothing is found, or gradients of what is found would not be exact.
    """
    check_parameters(parameters)
    if parameters == "last_layer":
        head = output_head(model)
        return [as_layer(name, module) for name, module in model.named_modules() if module is head]
    if parameters == "lora":
        return lora_layers(model)
    found = [as_layer(name, module) for name, module in model.named_modules() if fnmatchcase(name, parameters)]
    if not found:
        raise ValueError(
            f"`parameters` must be {_known(hidden)}, got {parameters!r}, "
            'which no layer matches: look them up with `model.named_modules()`, e.g. "*.down_proj".'
        )
    return found


def output_head(model: nn.Module) -> nn.Module:
    """The layer that makes logits.

    Raises:
        ValueError: If the model has none.
    """
    inner: Any = getattr(model, "module", model)  # of a wrapper such as DDP
    getter = getattr(inner, "get_output_embeddings", None)
    head = getter() if getter is not None else None
    if head is None:
        raise ValueError(
            f"`model` must be a causal language model with an output layer, got {type(model).__name__}: "
            "load it with `AutoModelForCausalLM`."
        )
    trained = getattr(head, "modules_to_save", None)  # PEFT's copy that is trained in the original's place
    return trained[head.active_adapters[0]] if isinstance(trained, nn.ModuleDict) else head


def vocabulary_size(model: nn.Module) -> int | None:
    """How many tokens the model knows; None where it does not tell."""
    getter = getattr(getattr(model, "module", model), "get_input_embeddings", None)
    try:
        weight = getattr(getter() if getter is not None else None, "weight", None)
    except (NotImplementedError, AttributeError):  # of a model with embeddings of its own kind
        return None
    return len(weight) if isinstance(weight, Tensor) else None


def lora_layers(model: nn.Module) -> list[Layer]:
    """The A and B of every active LoRA adapter.

    Raises:
        ValueError: If there are none, or some are of a kind whose gradient is not that of a plain linear layer.
    """
    found = []
    for name, module in model.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        active: Sequence[str] = getattr(module, "active_adapters", [])
        if any(adapter in getattr(module, "lora_variant", {}) for adapter in active):
            raise ValueError(
                f"`model` must use plain LoRA for exact gradients, got a variant such as DoRA in {name}: "
                "train the proxy without it."
            )
        for part in ("lora_A", "lora_B"):
            sides = getattr(module, part)
            found += [as_layer(f"{name}.{part}.{adapter}", sides[adapter]) for adapter in active if adapter in sides]
    if not found:
        raise ValueError(
            "`model` must have LoRA layers for `parameters='lora'`, got none: wrap it with `peft.get_peft_model`, "
            'or name layers of its own, e.g. `parameters="*.down_proj"`.'
        )
    return found


def as_layer(name: str, module: nn.Module) -> Layer:
    """`module` as a layer.

    Raises:
        ValueError: If it is not linear, or its weights are quantised.
    """
    weight = getattr(module, "weight", None)
    transposed = type(module).__name__ == "Conv1D" and hasattr(module, "nf")
    if hasattr(module, "base_layer"):
        own = name.rpartition(".")[2]
        raise ValueError(
            f"`parameters` must name linear layers, got {name}, a linear layer under LoRA: name the layer inside, "
            f'"*.{own}.base_layer", or take `parameters="lora"`.'
        )
    if not (isinstance(module, nn.Linear) or transposed) or not isinstance(weight, Tensor):
        raise ValueError(f"`parameters` must name linear layers, got {name}, a {type(module).__name__}.")
    if not weight.is_floating_point():
        raise ValueError(
            f"`parameters` must name layers with floating-point weights, got {name} quantised to {weight.dtype}: "
            "take the gradients of a LoRA adapter on top of it."
        )
    return Layer(name, module, transposed)


@dataclass(slots=True)
class Passed:
    """What went into a layer and came out, call by call, (batch, length, width)."""

    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)


@contextmanager
def watched(layers: Sequence[Layer]) -> Iterator[list[Passed]]:
    """Record what passes through `layers`. Their outputs are made to carry gradients even in a frozen model."""
    passed = [Passed() for _ in layers]

    def watch(record: Passed):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            record.inputs.append(inputs[0].detach())
            record.outputs.append(output if output.requires_grad else output.requires_grad_())

        return hook

    handles = [layer.module.register_forward_hook(watch(record)) for layer, record in zip(layers, passed, strict=True)]
    try:
        yield passed
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watched_hidden(head: nn.Module) -> Iterator[list[Tensor]]:
    """Record what goes into the output layer, cut off from the layers below."""
    seen: list[Tensor] = []

    def cut(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(inputs[0].detach().requires_grad_())
        return (seen[-1], *inputs[1:])

    handle = head.register_forward_pre_hook(cut)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with every parameter frozen, so that no graph grows below the layers watched; then as before."""
    modes = [(module, module.training) for module in model.modules()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        with torch.enable_grad():
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for module, mode in modes:
            module.training = mode
