"""One gradient per row in one backward pass of the batch.

Of every layer the passes leave its inputs a and the gradients e of its outputs, token by token. The gradient of the
layer's weight for one example is Σ_l e_l a_lᵀ, so the whole batch costs one forward and one backward pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hf_gip.core.sketch import add_sketch, rademacher, signs
from hf_gip.core.validation import brief, check_int, check_seed
from hf_gip.features.adam import AdamMoments
from hf_gip.features.tokenization import IGNORED, TokenBatch, check_tokens

BLOCK_BYTES = 1 << 28  # of exact gradients in memory at a time
CHECK_SEED = 1_000_003  # added to the seed of the projection for the sketch that checks it
HALF_SCALE = 2.0**12  # keeps float16 output gradients from vanishing; taken out again in float32


@dataclass(frozen=True, slots=True)
class GradientRecipe:
    """Which gradients, and how they are projected: the options of `gradient_features` of the same names."""

    target_modules: str = "lora"
    projection_dim: int | None = 1024
    side: int | None = None
    normalize: bool = False
    seed: int = 0
    max_length: int | None = None


class NonFiniteGradientError(ValueError):
    """Gradients of these rows hold NaN or infinity."""

    advice = "look at these rows, or load the model in bfloat16 or float32"

    def __init__(self, rows: list[int]) -> None:
        """Name the rows by their positions."""
        super().__init__(rows)
        self.finding = f"NaN or infinity in row {', '.join(map(str, rows))}"

    def __str__(self) -> str:
        return f"`model` must give finite gradients, got {self.finding}: {self.advice}."


class PerExampleGradients:
    """Computes projected per-example gradients of batches of tokens. See `gradient_features`."""

    def __init__(
        self,
        model: nn.Module,
        recipe: GradientRecipe,
        scaling: AdamMoments | None = None,
        basis: Float[Tensor, "p r"] | None = None,
        check_dim: int = 0,
    ) -> None:
        """Find the layers. A `basis`, one column per direction, takes the place of the sketch.

        `check_dim` more columns are a second sketch of the whole gradient, drawn apart from the first, in its units.

        Raises:
            ValueError: If options exclude each other, or are out of range.
        """
        if scaling is not None and (recipe.side is not None or recipe.target_modules == "hidden"):
            raise ValueError(
                "`scaling` needs the exact gradient of weights: leave `side` and `target_modules='hidden'` out."
            )
        check_int("projection_dim", recipe.projection_dim, optional=True)
        check_int("side", recipe.side, optional=True)
        check_seed(recipe.seed)
        self.model, self.hidden = model, recipe.target_modules == "hidden"
        self.layers = [] if self.hidden else find_layers(model, recipe.target_modules)
        self.side, self.seed, self.normalize, self.scaling = recipe.side, recipe.seed, recipe.normalize, scaling
        full = self._full_width()
        self.basis = None if basis is None else basis.to(next(model.parameters()).device)
        if basis is not None and (len(basis) != full or recipe.side is not None):
            raise ValueError(
                f"`basis` must have one row per weight ({full}), got {len(basis)}, or goes with no `side`."
            )
        narrower = recipe.projection_dim is not None and recipe.projection_dim < full
        self.projection_dim = recipe.projection_dim if narrower else None
        self.width = basis.shape[1] if basis is not None else self.projection_dim or full
        self.check_dim = check_dim
        self.flips: dict[tuple[int, int], Tensor] = {}
        self.vocabulary = vocabulary_size(model)

    def compute(self, batch: TokenBatch) -> Float[Tensor, "b d"]:
        """Vectors of one batch, float32, on the CPU; the columns of the check come last.

        Raises:
            NonFiniteGradientError: Naming the rows whose gradient is not finite.
            ValueError: If the model does not know a token.
        """
        if self.vocabulary is not None:
            check_tokens(batch, self.vocabulary)
        with eval_frozen(self.model):
            vectors = self._hidden_vectors(batch) if self.hidden else self._weight_vectors(batch)
        finite = torch.isfinite(vectors).all(dim=1).cpu()
        if not bool(finite.all()):
            raise NonFiniteGradientError(batch.rows[~finite].tolist())
        if self.normalize and self.basis is None:
            vectors = vectors / torch.linalg.vector_norm(vectors[:, : self.width], dim=1, keepdim=True).clamp(
                min=1e-12
            )
        return vectors.cpu()

    def _weight_vectors(self, batch: TokenBatch) -> Float[Tensor, "b d"]:
        """Gradients of the layers' weights."""
        with capture_activations(self.layers) as activations:
            loss, scale = self.loss(batch)
        return self.from_activations(activations, loss, scale, len(batch.rows))

    def from_activations(
        self, activations: "Sequence[Activations]", loss: Tensor, scale: float, rows: int
    ) -> Float[Tensor, "b d"]:
        """Gradients of `loss`, the sum of the `rows` examples' own losses times `scale`, from what they captured."""
        outputs = [output for record in activations for output in record.outputs]
        output_gradients = iter(torch.autograd.grad(loss, outputs, allow_unused=True))
        out = torch.zeros(rows, self.width, device=loss.device)
        check = torch.zeros(rows, self.check_dim, device=loss.device)
        energy = torch.zeros(rows, device=loss.device)
        start = 0
        for number, (layer, record) in enumerate(zip(self.layers, activations, strict=True)):
            layer_gradients = [next(output_gradients) for _ in record.outputs]
            for offset, block in self._weight_gradient(layer, record, layer_gradients, scale):
                self._add(out, start, number, offset, block)
                if self.check_dim:
                    self._sketch(check, number, offset, block, self.seed + CHECK_SEED)
                if self.basis is not None:
                    energy += block.square().sum(dim=1)
            start += self._size(layer)
        out = torch.cat([out, check], dim=1)
        if self.normalize and self.basis is not None:  # by the whole gradient: what lies outside the basis counts
            out /= energy.sqrt().clamp(min=torch.finfo(energy.dtype).tiny)[:, None]
        return out

    def _hidden_vectors(self, batch: TokenBatch) -> Float[Tensor, "b d"]:
        """∂loss/∂h of the last hidden states, summed over tokens."""
        with capture_hidden_states(output_head(self.model)) as hidden_states:
            loss, scale = self.loss(batch)
        (output_gradients,) = torch.autograd.grad(loss, hidden_states)
        out = torch.zeros(len(batch.rows), self.width, device=loss.device)
        self._add(out, 0, 0, 0, output_gradients.float().sum(dim=1) / scale)
        return out

    def loss(self, batch: TokenBatch) -> tuple[Tensor, float]:
        """Sum over the batch of every example's own mean loss, times a scale.

        Raises:
            ValueError: If the model's output has no logits.
        """
        device = next(self.model.parameters()).device
        output = self.model(
            input_ids=batch.input_ids.to(device), attention_mask=batch.attention_mask.to(device), use_cache=False
        )
        logits = getattr(output, "logits", None)
        if logits is None or logits.ndim != 3:
            raise ValueError(
                f"`model` must be a causal language model with logits per token, got {type(self.model).__name__}: "
                "load it with `AutoModelForCausalLM`."
            )
        targets = batch.labels[:, 1:].to(logits.device)
        counted = targets != IGNORED
        losses = torch.nn.functional.cross_entropy(logits[:, :-1][counted].float(), targets[counted], reduction="none")
        share = (counted / counted.sum(dim=1, keepdim=True))[counted]  # each token's part in its example's mean
        scale = HALF_SCALE if logits.dtype == torch.float16 else 1.0
        return (losses * share).sum() * scale, scale

    def _full_width(self) -> int:
        """Length of the vector before the sketch."""
        if self.hidden:
            return int(getattr(output_head(self.model), "weight").shape[1])  # noqa: B009 — `nn.Module` hides its type
        return sum(self._size(layer) for layer in self.layers)

    def _size(self, layer: "Layer") -> int:
        """Numbers that a layer contributes before the sketch."""
        rows, columns = (min(width, self.side or width) for width in layer.shape)
        return rows * columns

    def _weight_gradient(
        self, layer: "Layer", record: "Activations", output_gradients: Sequence[Tensor | None], scale: float
    ) -> Iterator[tuple[int, Float[Tensor, "b p"]]]:
        """Parts of a layer's per-example gradients Σ_l e_l a_lᵀ, whole rows of the weight at a time.

        Raises:
            ValueError: If the layer mixes examples.
        """
        pairs = [(e.float(), a.float()) for e, a in zip(output_gradients, record.inputs, strict=True) if e is not None]
        if any(e.ndim != 3 for e, _ in pairs):
            raise ValueError(
                f"`target_modules` must name layers that see (batch, length, width), got {layer.name}, which sees "
                "another shape: leave routed experts out."
            )
        if not pairs:
            return
        rows, columns = (torch.cat(factors, dim=1) for factors in zip(*pairs, strict=True))
        if layer.transposed:
            rows, columns = columns, rows
        rows, columns = self._narrow(rows, layer, 0), self._narrow(columns, layer, 1)
        step = max(1, BLOCK_BYTES // (4 * len(rows) * columns.shape[2]))
        for first in range(0, rows.shape[2], step):
            block = (rows[:, :, first : first + step].mT @ columns).flatten(1)
            if scale != 1:
                block /= scale
            if self.scaling is not None:
                block = self.scaling.scaled(f"{layer.name}.weight", block, first * columns.shape[2])
            yield first * columns.shape[2], block

    def _narrow(self, factor: Float[Tensor, "b l w"], layer: "Layer", axis: int) -> Float[Tensor, "b l v"]:
        """One side of a layer's gradient, multiplied by random signs where it is wider than `side`."""
        if self.side is None or factor.shape[2] <= self.side:
            return factor
        stream = 2 * self.layers.index(layer) + axis
        return factor @ rademacher(factor.shape[2], self.side, seed=~self.seed, stream=stream, like=factor)

    def _add(self, out: Tensor, start: int, stream: int, offset: int, block: Tensor) -> None:
        """Put part of a layer's vector where it belongs: on the basis, into the sketch, or in its place."""
        if self.basis is not None:
            out += block @ self.basis[start + offset : start + offset + block.shape[1]]
            return
        if self.projection_dim is None:
            out[:, start + offset : start + offset + block.shape[1]] = block
            return
        self._sketch(out, stream, offset, block, self.seed)

    def _sketch(self, out: Tensor, stream: int, offset: int, block: Tensor, seed: int) -> None:
        """Add the sketch of part of a layer's vector."""
        if (seed, stream) not in self.flips:
            size = self._size(self.layers[stream]) if self.layers else block.shape[1]
            self.flips[seed, stream] = signs(0, size, seed, stream, block.device)
        flips = self.flips[seed, stream][offset : offset + block.shape[1]]
        add_sketch(out, block, offset, seed, stream, flips)


# --- which layers ----------------------------------------------------------------------------------------------------


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


def check_target_modules(target_modules: object, *, hidden: bool = True) -> None:
    """Raise unless `target_modules` can name layers; `hidden` is not named where it is of no use.

    Raises:
        TypeError: If it is no text.
        ValueError: If it is empty.
    """
    expected = _valid_names(hidden)
    if not isinstance(target_modules, str):
        raise TypeError(f"`target_modules` must be {expected}, got {brief(target_modules)}.")
    if not target_modules:
        raise ValueError(f"`target_modules` must be {expected}, got ''.")


def _valid_names(hidden: bool) -> str:
    return f"lora, last_layer{', hidden' if hidden else ''} or a pattern of layer names"


def find_layers(model: nn.Module, target_modules: str, *, hidden: bool = True) -> list[Layer]:
    """The layers that `target_modules` names: `"lora"`, `"last_layer"` or a pattern of module names.

    A message names `hidden` among what may be asked for unless told that it is of no use there.

    Raises:
        ValueError: If no layer is found, or gradients of one would not be exact.
    """
    check_target_modules(target_modules)
    if target_modules == "last_layer":
        head = output_head(model)
        return [_as_layer(name, module) for name, module in model.named_modules() if module is head]
    if target_modules == "lora":
        return lora_layers(model)
    layers = [_as_layer(name, module) for name, module in model.named_modules() if fnmatchcase(name, target_modules)]
    if not layers:
        raise ValueError(
            f"`target_modules` must be {_valid_names(hidden)}, got {target_modules!r}, "
            'which no layer matches: look them up with `model.named_modules()`, e.g. "*.down_proj".'
        )
    return layers


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
    layers = []
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
            matrices = getattr(module, part)
            layers += [
                _as_layer(f"{name}.{part}.{adapter}", matrices[adapter]) for adapter in active if adapter in matrices
            ]
    if not layers:
        raise ValueError(
            "`model` must have LoRA layers for `target_modules='lora'`, got none: wrap it with `peft.get_peft_model`, "
            'or name layers of its own, e.g. `target_modules="*.down_proj"`.'
        )
    return layers


def _as_layer(name: str, module: nn.Module) -> Layer:
    """`module` as a layer.

    Raises:
        ValueError: If it is not linear, or its weights are quantized.
    """
    weight = getattr(module, "weight", None)
    transposed = type(module).__name__ == "Conv1D" and hasattr(module, "nf")
    if hasattr(module, "base_layer"):
        short_name = name.rpartition(".")[2]
        raise ValueError(
            f"`target_modules` must name linear layers, got {name}, a linear layer under LoRA: name the layer inside, "
            f'"*.{short_name}.base_layer", or take `target_modules="lora"`.'
        )
    if not (isinstance(module, nn.Linear) or transposed) or not isinstance(weight, Tensor):
        raise ValueError(f"`target_modules` must name linear layers, got {name}, a {type(module).__name__}.")
    if not weight.is_floating_point():
        raise ValueError(
            f"`target_modules` must name layers with floating-point weights, got {name} quantized to {weight.dtype}: "
            "take the gradients of a LoRA adapter on top of it."
        )
    return Layer(name, module, transposed)


# --- what passes through them ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Activations:
    """What went into a layer and came out, call by call, (batch, length, width)."""

    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)


@contextmanager
def capture_activations(layers: Sequence[Layer]) -> Iterator[list[Activations]]:
    """Record what passes through `layers`. Their outputs are made to carry gradients even in a frozen model."""
    activations = [Activations() for _ in layers]

    def hook_of(record: Activations):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            record.inputs.append(inputs[0].detach())
            record.outputs.append(output if output.requires_grad else output.requires_grad_())

        return hook

    handles = [
        layer.module.register_forward_hook(hook_of(record)) for layer, record in zip(layers, activations, strict=True)
    ]
    try:
        yield activations
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def capture_hidden_states(head: nn.Module) -> Iterator[list[Tensor]]:
    """Record what goes into the output layer, cut off from the layers below."""
    hidden_states: list[Tensor] = []

    def cut(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden_states.append(inputs[0].detach().requires_grad_())
        return (hidden_states[-1], *inputs[1:])

    handle = head.register_forward_pre_hook(cut)
    try:
        yield hidden_states
    finally:
        handle.remove()


@contextmanager
def eval_frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, every parameter frozen, so that no graph grows below the captured layers; then as before."""
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
