"""Features of rows by one pass of the model."""

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

from hf_gip.features.per_example_gradients import (
    HALF_SCALE,
    Activations,
    GradientRecipe,
    PerExampleGradients,
    capture_activations,
)
from hf_gip.hashing import hash_rows

from .trainer_access import bare_model, is_sharded, packing_of, served_columns, unwrapped_model, wrapped_model

Family = Literal["hidden", "hidden_gradient", "lora_gradient", "last_layer_gradient"]

DIMS = 1_024  # of a projected gradient
SMALL = 1 << 28  # bytes of logits that a CPU makes at once
SIDE = 64  # to which the output layer's (vocabulary, width) is narrowed first, side by side
WEIGHTS = {"lora_gradient": ("lora", None), "last_layer_gradient": ("last_layer", SIDE)}


def projection(family: str, seed: int) -> GradientRecipe | None:
    """How the gradients of a family are projected; None for those that are as wide as the model."""
    if family not in WEIGHTS:
        return None
    target_modules, side = WEIGHTS[family]
    return GradientRecipe(target_modules, DIMS, side, seed=seed)


class Probe:
    """Runs a batch and returns (rows, d) of the family, with the loss as a last column where asked for.

    All of it happens in hooks inside the wrapped forward, where FSDP and ZeRO have the weights together and before DDP
    looks at the output: what needs no graph runs without one, and the backward pass is done when the forward is.
    """

    def __init__(self, trainer: Trainer, family: Family, losses: bool) -> None:
        self.trainer, self.model = trainer, wrapped_model(trainer)
        self.family, self.losses = family, losses
        self.scored = losses or family != "hidden"  # whether the head has to answer for every labelled token
        self.whole = family == "last_layer_gradient"  # whose head has to see rows, and to be called as a module
        self.tiled = self.scored and isinstance(trainer, SFTTrainer) and not self.whole  # TRL's head, without logits
        self.fused = self.tiled
        self.reader: PerExampleGradients | None = None
        self.passed: list[Activations] = []
        self.mask = self.counted = self.wanted = self.states = self.loss = torch.empty(0)
        self.hooks = ExitStack()

    def __enter__(self) -> "Probe":
        core = bare_model(self.trainer)
        self.slim = "logits_to_keep" in inspect.signature(type(core).forward).parameters
        recipe = projection(self.family, self.trainer.args.seed)
        if recipe is not None:
            self.reader = PerExampleGradients(unwrapped_model(self.trainer), recipe)
        for handle in (
            core.register_forward_pre_hook(self._before_backbone),
            core.base_model.register_forward_hook(self._after_backbone),
            core.register_forward_hook(self._after_head, prepend=True),
        ):
            self.hooks.callback(handle.remove)
        if self.tiled and not is_sharded(self.trainer):
            self.hooks.enter_context(_frozen(core.get_output_embeddings()))
        return self

    def __exit__(self, *_: object) -> None:
        self.hooks.close()

    def __call__(self, batch: dict[str, Any]) -> Tensor:
        """Run a collated batch, labels included.

        Raises:
            ValueError: If it holds no tokens, or no labels of theirs where those are needed.
        """
        labels, tokens = batch.pop("labels", None), batch.get("input_ids")
        if tokens is None:
            raise ValueError(
                f"Batches must hold `input_ids` for the model to be asked about rows, got {sorted(batch)}: select "
                "before training with `gip_select`, or train on rows of tokens."
            )
        tokenwise = isinstance(labels, Tensor) and labels.shape == tokens.shape
        self.mask = labels != -100 if tokenwise else batch.get("attention_mask", torch.ones_like(tokens)).bool()
        if self.scored:
            self._note(labels if tokenwise else None)
        self.fused = self.tiled and not self._is_small()
        if self.fused:
            batch |= {"fused_lm_head": True, "shift_labels": self.wanted[None]}
        elif not self.scored and self.slim:  # as little of the head as the model allows
            batch |= {"logits_to_keep": 1}
        with self.trainer.compute_loss_context_manager(), self._watching():
            self.model(**batch, use_cache=False)
        found = torch.cat([self.states, self.loss[:, None]], dim=1) if self.losses else self.states
        self.states = self.loss = torch.empty(0)
        return found

    def _note(self, labels: Tensor | None) -> None:
        """Which positions predict a label that counts, (b, l - 1), and those labels, row after row, (t,).

        Raises:
            ValueError: If the model's labels are not one per token.
        """
        if labels is None:
            raise ValueError(
                '`features` must be "hidden" and `scores` without "loss" for a model whose labels are not one per '
                "token: only a language model's loss is read."
            )
        self.counted = self.mask[:, 1:]
        self.wanted = labels[:, 1:][self.counted]

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Note what passes through the layers whose gradients are asked for; nothing of it outlives the batch."""
        if self.reader is None:
            yield
            return
        with capture_activations(self.reader.layers) as self.passed:
            yield
        self.passed = []

    def _is_small(self) -> bool:
        """Whether the batch's logits take little memory; TRL's tiles are quick on accelerators only."""
        if self.wanted.device.type != "cpu":
            return False
        return len(self.wanted) * bare_model(self.trainer).config.get_text_config().vocab_size * 4 <= SMALL

    def _counting(self, values: Tensor) -> Tensor:
        """Of one vector a token, (b, l, d), those that predict a label that counts, (t, d)."""
        return values[:, :-1][self.counted.to(values.device)]

    def _before_backbone(self, module: nn.Module, args: Any) -> None:
        if self.family == "lora_gradient":
            torch.set_grad_enabled(True)

    def _after_backbone(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Keep what is read of the states; pass on to the head those that it is asked about, (1, t, H)."""
        states = output.last_hidden_state[:, -self.mask.shape[1] :]  # without the prompt that PEFT may have learnt
        if self.family == "hidden":
            inside = self.mask.to(states.device)
            total = states.masked_fill(~inside[..., None], 0).sum(dim=1, dtype=torch.float32)
            self.states = total / inside.sum(dim=1, keepdim=True).clamp(min=1)
        elif self.family != "lora_gradient":  # the backward pass ends here
            torch.set_grad_enabled(True)
            states = self.states = states.detach().requires_grad_()
        if not self.scored:
            return None
        output["last_hidden_state"] = states if self.whole else self._counting(states)[None]
        return output

    def _after_head(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self.scored:
            return
        loss = self._loss(output)
        if self.family != "hidden":
            self.states = self._slope(loss)
            torch.set_grad_enabled(False)
        self.loss = loss.detach()

    def _slope(self, loss: Tensor) -> Tensor:
        """Each row's gradient of its own loss, (rows, d)."""
        if self.reader is None:
            (slope,) = torch.autograd.grad(loss.sum(), self.states)
            return slope.sum(dim=1, dtype=torch.float32)
        half = any(output.dtype == torch.float16 for record in self.passed for output in record.outputs)
        scale = HALF_SCALE if half else 1.0
        return self.reader.from_activations(self.passed, loss.sum() * scale, scale, len(loss))

    def _loss(self, output: Any) -> Tensor:
        """Mean loss over each row's labelled tokens, (rows,)."""
        if self.fused:
            each = -output.log_probs[0].float()
        else:
            logits = self._counting(output.logits) if self.whole else output.logits[0]
            each = nn.functional.cross_entropy(logits.float(), self.wanted.to(logits.device), reduction="none")
        counted = self.counted.to(each.device)
        loss = torch.zeros(counted.shape, device=each.device).masked_scatter(counted, each).sum(dim=1)
        return loss / counted.sum(dim=1).clamp(min=1)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Inside, no gradient of the module's weights: TRL's fused head works it out whether it is asked for or not."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


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


@dataclass
class TextVectors:
    """Unit vectors of prepared rows, through the cache of `hf_gip.embed`, computed when first asked for.

    The texts are decoded from `input_ids`, so the pool and the target are read alike, templates included.
    """

    encoder: Any
    _known: dict[str, Tensor] = field(default_factory=dict)

    def of(self, trainer: Trainer, rows: Dataset) -> Tensor:
        """One vector a row, (n, d); no random state is consumed."""
        key = hash_rows(rows, ["input_ids"])
        if key not in self._known:
            restore = random_states()
            try:
                self._known[key] = self._embed(trainer, rows)
            finally:
                restore()
        return self._known[key]

    def _embed(self, trainer: Trainer, rows: Dataset) -> Tensor:
        from hf_gip.features.embed import embed

        tokenizer: Any = trainer.processing_class
        tokens = rows.select_columns("input_ids").with_format(None)["input_ids"]
        texts = Dataset.from_dict({"text": tokenizer.batch_decode(list(tokens), skip_special_tokens=True)})
        return embed(texts, self.encoder, columns=["text"]).matrix.to(torch.float32)
