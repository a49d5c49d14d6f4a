"""What a run must not be, said before it starts."""

import logging
from collections.abc import Sequence

from torch import nn
from transformers import Trainer, TrainerCallback

from hf_gip.core.validation import brief
from hf_gip.features.layers import lora_layers

from .host import is_sharded
from .view import PackedView, SelectionView

logger = logging.getLogger(__name__)

FEATURES = ("hidden", "hidden_gradient", "lora_gradient", "last_layer_gradient", "text")
OBJECTIVES = ("projection", "information")
LENGTHWISE = ("group_by_length", "batch_rebalance")


def check_trainer(trainer: Trainer) -> None:
    """Raise where re-selection would go wrong in silence; warn where it merely costs.

    Raises:
        TypeError: If it is no trainer.
        ValueError: If the trainer has a selection already, splits a batch over ranks or cannot be given one.
    """
    if not isinstance(trainer, Trainer):
        raise TypeError(
            f"`trainer` must be a `transformers.Trainer`, got {type(trainer).__name__}: "
            "`GIPSelectionCallback(trainer, k)`."
        )
    if isinstance(trainer.train_dataset, SelectionView | PackedView):
        raise ValueError(
            "`trainer` must have no other selection callback, got one whose training set is a selection already: use "
            "one callback, or build the trainer anew."
        )
    sizes = {"tensor": trainer.get_tp_size(), "context": trainer.get_cp_size(), "sequence": trainer.get_sp_size()}
    for kind, size in sizes.items():
        if size > 1:
            raise ValueError(
                f"`trainer` must give every process its own batches, got {kind} parallelism over {size}: use data "
                "parallelism (DDP, FSDP, ZeRO)."
            )
    if trainer.args.train_sampling_strategy in LENGTHWISE:
        logger.warning(
            "`train_sampling_strategy=%r` sorts by the lengths of the first rows: later selections are served "
            "correctly but no longer grouped by length.",
            trainer.args.train_sampling_strategy,
        )


def warn_of_repeats(trainer: Trainer, k: int) -> None:
    """Say when the loader would repeat or drop rows to come out even.

    Raises:
        ValueError: If it would drop all of them.
    """
    args = trainer.args
    step = args.train_batch_size * args.world_size
    if k < step and args.dataloader_drop_last:
        raise ValueError(
            f"`k` must be at least {step} (what all processes take in a step) with `dataloader_drop_last=True`, got "
            f"{k}: raise it or lower `per_device_train_batch_size`."
        )
    if k % step and (args.world_size > 1 or args.dataloader_drop_last):
        logger.warning(
            "`k=%d` is no multiple of %d (what all processes take in a step), so the loader %s %d row(s) an epoch: "
            "`k=%d` avoids it.",
            k,
            step,
            "drops" if args.dataloader_drop_last else "repeats",
            k % step if args.dataloader_drop_last else -k % step,
            k - k % step or step,
        )


def check_attached(trainer: Trainer | None, callback: TrainerCallback) -> None:
    """Raise unless `callback` belongs to the trainer that is running.

    Raises:
        RuntimeError: If it has no trainer, was added to another one, or its rows are not what is trained on.
    """
    if trainer is None:
        raise RuntimeError(
            "`trainer` must be the trainer that trains, got None: write `GIPSelectionCallback(trainer, k)`, and leave "
            "`restore_callback_states_from_checkpoint` False, which rebuilds callbacks without one."
        )
    same = [other for other in trainer.callback_handler.callbacks if isinstance(other, type(callback))]
    if same != [callback]:
        raise RuntimeError(
            f"The callback must be added once, to the trainer it was made with, got {len(same)} there: "
            "`trainer.add_callback(GIPSelectionCallback(trainer, …))`."
        )
    if not isinstance(trainer.train_dataset, SelectionView | PackedView):
        raise RuntimeError(
            "`trainer.train_dataset` must be left as the callback set it, got "
            f"{type(trainer.train_dataset).__name__}: change the training set before the callback is made."
        )


def check_features(features: str, objective: str, trainer: Trainer) -> None:
    """Raise unless the model of `trainer` can be asked for `features`.

    Raises:
        ValueError: If they are unknown, or the model has no weights of that kind, or not all of them in one place.
    """
    for name, value, known in (("features", features, FEATURES), ("objective", objective, OBJECTIVES)):
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"`{name}` must be one of {', '.join(known)}, got {brief(value)}.")
    if features not in ("lora_gradient", "last_layer_gradient"):
        return
    if is_sharded(trainer):
        raise ValueError(
            f'`features="{features}"` needs whole weights on every process, got a sharded model: use '
            '`features="hidden_gradient"`, or DDP.'
        )
    model = trainer.model
    if features == "lora_gradient":
        if not isinstance(model, nn.Module) or not any(hasattr(module, "lora_A") for module in model.modules()):
            raise ValueError(
                '`features="lora_gradient"` needs a model with LoRA adapters, got one without: give the trainer a '
                '`peft_config=`, or use `features="last_layer_gradient"`.'
            )
        lora_layers(model)


def check_texts(features: str, columns: Sequence[str], tokenizer: object) -> None:
    """Raise unless texts can be decoded where they are asked for.

    Raises:
        ValueError: If rows have no tokens or there is no tokenizer.
    """
    if features == "text" and ("input_ids" not in columns or not hasattr(tokenizer, "batch_decode")):
        raise ValueError(
            f'`features="text"` needs `input_ids` and a tokenizer to decode them, got columns {list(columns)} and '
            f"{type(tokenizer).__name__}: pass `processing_class=` to the trainer."
        )
