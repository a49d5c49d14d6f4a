"""Features of rows by one pass of the model in training, or by their texts."""

import dataclasses
import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import torch
from accelerate.utils import send_to_device
from accelerate.utils.memory import clear_device_cache
from datasets import Dataset
from datasets.utils import tqdm
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer
from trl.trainer.sft_trainer import SFTTrainer

from hf_gip.features.embed import embed
from hf_gip.features.per_example_gradients import (
    HALF_SCALE,
    Activations,
    GradientRecipe,
    PerExampleGradients,
    capture_activations,
)
from hf_gip.hashing import hash_rows

from .trainer_access import base_model, is_sharded, packing_of, served_columns, unwrapped_model, wrapped_model

FeatureKind = Literal["hidden", "hidden_gradient", "lora_gradient", "last_layer_gradient"]

PROJECTION_DIM = 1_024  # of a gradient of weights
HEAD_SIDE = 64  # to which the output layer's (vocabulary, width) is narrowed first, on both sides
WEIGHTS = {"lora_gradient": ("lora", None), "last_layer_gradient": ("last_layer", HEAD_SIDE)}
SMALL_LOGITS = 1 << 28  # bytes of logits that a CPU makes at once
BATCHES_ON_DEVICE = 32  # whose features wait there, so that copying does not stall it


@dataclass(frozen=True)
class RowFeatures:
    """Features of rows, on the main process.

    Attributes:
        features: One vector a row, (n, d), float32, on the CPU.
        losses: Mean loss over each row's labelled tokens, (n,), if asked for.
    """

    features: Tensor
    losses: Tensor | None


def compute_features(
    trainer: Trainer,
    rows: Dataset,
    lengths: Tensor,
    kind: FeatureKind,
    *,
    with_losses: bool = False,
    name: str = "rows",
) -> RowFeatures | None:
    """Features of `rows` under the model in training.

    `hidden` is the mean of the last hidden states over the labelled tokens, (H,). `hidden_gradient` is the gradient
    of the row's mean loss by those states, summed over its tokens, (H,): Wᵀ(p − y) averaged, the backward pass ending
    at the head; `last_layer_gradient` the one by the head's weight, which needs the logits. One pass over the backbone
    for each of them. `lora_gradient` is the gradient by all active LoRA weights, exact, and costs a whole backward.
    Gradients of weights are projected to (1024,) by signs that depend on the run's seed alone.

    Memory beside the model: one batch (for `lora_gradient` with its graph) and the (n, d) result.

    Nothing stays changed: modes, gradients and random states are as before, cached device memory is freed.

    Args:
        trainer: The trainer; every process takes part.
        rows: Prepared rows.
        lengths: Their tokens, (n,): batches are made of rows of like length, longest first.
        kind: Which features.
        with_losses: Whether to return each row's loss, too, *optional*, defaults to `False`.
        name: How the progress bar names the rows.

    Returns:
        The features on the main process, None on the others.
    """
    batches = _length_batches(lengths, trainer.args.per_device_eval_batch_size, trainer.accelerator.num_processes)
    buffer = _FeatureBuffer(len(rows), with_losses) if trainer.accelerator.is_main_process else None
    with _eval_mode(trainer), FeatureCapture(trainer, kind, with_losses) as capture, torch.no_grad():
        for batch_rows, batch in zip(batches, _load(trainer, rows, batches, name), strict=True):
            _check_one_line_per_row(batch, len(batch_rows) // trainer.accelerator.num_processes)
            gathered: Any = trainer.accelerator.gather(capture(batch))
            if buffer is not None:
                buffer.add(batch_rows, gathered)
    clear_device_cache()
    return None if buffer is None else buffer.result()


def gradient_projection(kind: str, seed: int) -> GradientRecipe | None:
    """How gradients of weights are projected; None for features that are as wide as the model."""
    if kind not in WEIGHTS:
        return None
    target_modules, side = WEIGHTS[kind]
    return GradientRecipe(target_modules, PROJECTION_DIM, side, seed=seed)


# --- One batch -------------------------------------------------------------------------------------------------------


class FeatureCapture:
    """Runs a batch and captures (rows, d) features in hooks, with the loss as a last column if asked for.

    The hooks run inside the wrapped forward, where FSDP and ZeRO have the weights together and before DDP looks at
    the output: what needs no graph runs without one, and the backward pass is done when the forward is.

    Args:
        trainer: Its wrapped model is run.
        kind: Which features.
        with_losses: Whether to append each row's loss.
    """

    def __init__(self, trainer: Trainer, kind: FeatureKind, with_losses: bool) -> None:
        self.trainer, self.model = trainer, wrapped_model(trainer)
        self.kind, self.with_losses = kind, with_losses
        self.needs_loss = with_losses or kind != "hidden"  # then the head answers for every labelled token
        self.needs_logits = kind == "last_layer_gradient"  # then the head sees rows, and is called as a module
        self.can_fuse = self.needs_loss and isinstance(trainer, SFTTrainer) and not self.needs_logits
        self.is_fused = False  # whether TRL's head works out this batch's loss without logits
        self.reader: PerExampleGradients | None = None
        self.passed: list[Activations] = []
        self.mask = self.predicting = self.targets = self.features = self.loss = torch.empty(0)
        self.hooks = ExitStack()

    def __enter__(self) -> "FeatureCapture":
        model = base_model(self.trainer)
        self.takes_logits_to_keep = "logits_to_keep" in inspect.signature(type(model).forward).parameters
        projection = gradient_projection(self.kind, self.trainer.args.seed)
        if projection is not None:
            self.reader = PerExampleGradients(unwrapped_model(self.trainer), projection)
        for handle in (
            model.register_forward_pre_hook(self._before_backbone),
            model.base_model.register_forward_hook(self._after_backbone),
            model.register_forward_hook(self._after_head, prepend=True),
        ):
            self.hooks.callback(handle.remove)
        if self.can_fuse and not is_sharded(self.trainer):
            self.hooks.enter_context(_frozen(model.get_output_embeddings()))
        return self

    def __exit__(self, *_: object) -> None:
        self.hooks.close()

    def __call__(self, batch: dict[str, Any]) -> Tensor:
        """Run a collated batch, labels included.

        Raises:
            ValueError: If it has no tokens, or no labels of theirs if those are needed.
        """
        labels, tokens = batch.pop("labels", None), batch.get("input_ids")
        if tokens is None:
            raise ValueError(
                f"Batches must hold `input_ids` for the model to be asked about rows, got {sorted(batch)}: select "
                "before training with `gip_select`, or train on rows of tokens."
            )
        has_token_labels = isinstance(labels, Tensor) and labels.shape == tokens.shape
        self.mask = labels != -100 if has_token_labels else batch.get("attention_mask", torch.ones_like(tokens)).bool()
        if self.needs_loss:
            if not has_token_labels:
                raise ValueError(
                    '`features` must be "hidden" and `scores` without "loss" for a model whose labels are not one per '
                    "token: only a language model's loss is read."
                )
            self.predicting = self.mask[:, 1:]  # positions whose next token is labelled, (b, l - 1)
            self.targets = labels[:, 1:][self.predicting]  # those labels, row after row, (t,)
        self.is_fused = self.can_fuse and not self._has_small_logits()
        if self.is_fused:
            batch |= {"fused_lm_head": True, "shift_labels": self.targets[None]}
        elif not self.needs_loss and self.takes_logits_to_keep:  # as little of the head as the model allows
            batch |= {"logits_to_keep": 1}
        with self.trainer.compute_loss_context_manager(), self._recording_layers():
            self.model(**batch, use_cache=False)
        result = torch.cat([self.features, self.loss[:, None]], dim=1) if self.with_losses else self.features
        self.features = self.loss = torch.empty(0)
        return result

    def _has_small_logits(self) -> bool:
        """Whether the batch's logits take little memory; TRL's fused head is quick on accelerators only."""
        if self.targets.device.type != "cpu":
            return False
        return len(self.targets) * base_model(self.trainer).config.get_text_config().vocab_size * 4 <= SMALL_LOGITS

    @contextmanager
    def _recording_layers(self) -> Iterator[None]:
        """Record what passes through the layers whose gradients are needed; nothing of it outlives the batch."""
        if self.reader is None:
            yield
            return
        with capture_activations(self.reader.layers) as self.passed:
            yield
        self.passed = []

    def _before_backbone(self, module: nn.Module, args: Any) -> None:
        if self.kind == "lora_gradient":
            torch.set_grad_enabled(True)

    def _after_backbone(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Keep the states that are needed; pass on to the head those that predict a label, (1, t, H)."""
        states = output.last_hidden_state[:, -self.mask.shape[1] :]  # without the prompt that PEFT may have learnt
        if self.kind == "hidden":
            mask = self.mask.to(states.device)
            total = states.masked_fill(~mask[..., None], 0).sum(dim=1, dtype=torch.float32)
            self.features = total / mask.sum(dim=1, keepdim=True).clamp(min=1)
        elif self.kind != "lora_gradient":  # the backward pass ends here
            torch.set_grad_enabled(True)
            states = self.features = states.detach().requires_grad_()
        if not self.needs_loss:
            return None
        output["last_hidden_state"] = states if self.needs_logits else self._predicting_tokens(states)[None]
        return output

    def _after_head(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self.needs_loss:
            return
        loss = self._row_losses(output)
        if self.kind != "hidden":
            self.features = self._row_gradients(loss)
            torch.set_grad_enabled(False)
        self.loss = loss.detach()

    def _row_losses(self, output: Any) -> Tensor:
        """Mean loss over each row's labelled tokens, (rows,)."""
        if self.is_fused:
            token_losses = -output.log_probs[0].float()
        else:
            logits = self._predicting_tokens(output.logits) if self.needs_logits else output.logits[0]
            token_losses = nn.functional.cross_entropy(
                logits.float(), self.targets.to(logits.device), reduction="none"
            )
        predicting = self.predicting.to(token_losses.device)
        loss = torch.zeros(predicting.shape, device=token_losses.device).masked_scatter(predicting, token_losses)
        return loss.sum(dim=1) / predicting.sum(dim=1).clamp(min=1)

    def _row_gradients(self, loss: Tensor) -> Tensor:
        """Each row's gradient of its own loss, (rows, d)."""
        if self.reader is None:
            (gradient,) = torch.autograd.grad(loss.sum(), self.features)
            return gradient.sum(dim=1, dtype=torch.float32)
        is_half = any(output.dtype == torch.float16 for record in self.passed for output in record.outputs)
        scale = HALF_SCALE if is_half else 1.0
        return self.reader.from_activations(self.passed, loss.sum() * scale, scale, len(loss))

    def _predicting_tokens(self, values: Tensor) -> Tensor:
        """From (b, l, d), the tokens that predict a label, (t, d)."""
        return values[:, :-1][self.predicting.to(values.device)]


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Freeze the module's weights within: TRL's fused head computes their gradient whether needed or not."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


@contextmanager
def _eval_mode(trainer: Trainer) -> Iterator[None]:
    """Evaluation mode within; every module's own mode and every random state as before afterwards."""
    model = wrapped_model(trainer)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with preserved_random_states():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def preserved_random_states() -> Iterator[None]:
    """Every global random state is afterwards what it was before."""
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)


# --- All batches -----------------------------------------------------------------------------------------------------


def _length_batches(lengths: Tensor, size: int, processes: int) -> list[list[int]]:
    """Rows of like length together, longest first, (steps, processes × size): as many for every process.

    A last step that is not full repeats the shortest row: its later results overwrite the first with the same.
    """
    order = torch.argsort(lengths, descending=True, stable=True).tolist()
    step = size * processes
    if len(order) < step:  # few rows: no need to repeat more than evens out the processes
        step = processes * -(-len(order) // processes)
    order += order[-1:] * (-len(order) % step)
    return [order[start : start + step] for start in range(0, len(order), step)]


def _load(trainer: Trainer, rows: Dataset, batches: list[list[int]], name: str) -> Iterator[dict[str, Any]]:
    """This process's share of every step, collated and on the device."""
    accelerator = trainer.accelerator
    share = len(batches[0]) // accelerator.num_processes
    local = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    loader = DataLoader(
        cast(Any, served_columns(trainer, rows)),
        batch_sampler=[batch[local] for batch in batches],
        collate_fn=_collator(trainer),
        num_workers=trainer.args.dataloader_num_workers,
        pin_memory=trainer.args.dataloader_pin_memory and accelerator.device.type == "cuda",
        generator=torch.Generator(),
    )
    is_quiet = trainer.args.disable_tqdm or not accelerator.is_main_process
    with tqdm(total=len(rows), desc=f"Reading {name}", unit="row", disable=is_quiet) as bar:
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
    return collator if packing is None else partial(_collate_truncated, collator, packing.length)


def _collate_truncated(
    collator: Callable[..., dict[str, Any]], length: int, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    return collator([{name: values[:length] for name, values in row.items()} for row in rows])


def _check_one_line_per_row(batch: dict[str, Any], rows: int) -> None:
    tokens = batch.get("input_ids")
    if isinstance(tokens, Tensor) and len(tokens) != rows:
        raise ValueError(
            f"`data_collator` must make one line of each row, got {len(tokens)} line(s) of {rows} row(s): give one "
            "that pads, or let TRL run rows together (`padding_free=True`, without `data_collator`)."
        )


class _FeatureBuffer:
    """Collects the rows' features on the CPU, batch by batch."""

    def __init__(self, rows: int, with_losses: bool) -> None:
        self.rows = rows
        self.pending: list[tuple[list[int], Tensor]] = []
        self.features = torch.empty(0)
        self.losses = torch.empty(rows) if with_losses else None

    def add(self, rows: list[int], values: Tensor) -> None:
        self.pending.append((rows, values))
        if len(self.pending) == BATCHES_ON_DEVICE:
            self._flush()

    def result(self) -> RowFeatures:
        self._flush()
        return RowFeatures(self.features, self.losses)

    def _flush(self) -> None:
        for rows, values in self.pending:
            features = values.float().cpu()
            if self.losses is not None:
                self.losses[rows] = features[:, -1]
                features = features[:, :-1]
            if not len(self.features):
                self.features = torch.empty(self.rows, features.shape[1])
            self.features[rows] = features
        self.pending.clear()


# --- Texts -----------------------------------------------------------------------------------------------------------


@dataclass
class TextEmbeddings:
    """Unit embeddings of prepared rows, through the cache of `hf_gip.embed`, computed when first asked for.

    The texts are decoded from `input_ids`, so the pool and the target are read alike, templates included.

    Attributes:
        encoder: As in `hf_gip.embed`.
    """

    encoder: Any
    _by_tokens: dict[str, Tensor] = field(default_factory=dict)

    def embed(self, trainer: Trainer, rows: Dataset) -> Tensor:
        """One vector a row, (n, d); no random state is consumed."""
        key = hash_rows(rows, ["input_ids"])
        if key not in self._by_tokens:
            tokenizer: Any = trainer.processing_class
            tokens = rows.select_columns("input_ids").with_format(None)["input_ids"]
            texts = Dataset.from_dict({"text": tokenizer.batch_decode(list(tokens), skip_special_tokens=True)})
            with preserved_random_states():
                self._by_tokens[key] = embed(texts, self.encoder, columns=["text"]).matrix.to(torch.float32)
        return self._by_tokens[key]
