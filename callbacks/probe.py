"""What a batch's forward pass tells of each of its rows, caught by hooks inside the wrapped model."""

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import Trainer
from trl.trainer.sft_trainer import SFTTrainer

from hf_gip.features.layers import Passed, watched
from hf_gip.features.reader import HALF_SCALE, GradientReader, GradientRecipe

from .host import bare_model, is_sharded, unwrapped_model, wrapped_model

Family = Literal["hidden", "hidden_gradient", "lora_gradient", "last_layer_gradient"]

DIMS = 1_024  # of a projected gradient
SMALL = 1 << 28  # bytes of logits that a CPU makes at once
SIDE = 64  # to which the output layer's (vocabulary, width) is narrowed first, side by side
WEIGHTS = {"lora_gradient": ("lora", None), "last_layer_gradient": ("last_layer", SIDE)}


def projection(family: str, seed: int) -> GradientRecipe | None:
    """How the gradients of a family are projected; None for those that are as wide as the model."""
    if family not in WEIGHTS:
        return None
    parameters, side = WEIGHTS[family]
    return GradientRecipe(parameters, DIMS, side, seed=seed)


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
        self.reader: GradientReader | None = None
        self.passed: list[Passed] = []
        self.mask = self.counted = self.wanted = self.states = self.loss = torch.empty(0)
        self.hooks = ExitStack()

    def __enter__(self) -> "Probe":
        core = bare_model(self.trainer)
        self.slim = "logits_to_keep" in inspect.signature(type(core).forward).parameters
        recipe = projection(self.family, self.trainer.args.seed)
        if recipe is not None:
            self.reader = GradientReader(unwrapped_model(self.trainer), recipe)
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
        with watched(self.reader.layers) as self.passed:
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
        return self.reader.collected(self.passed, loss.sum() * scale, scale, len(loss))

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
