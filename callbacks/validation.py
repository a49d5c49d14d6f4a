"""What the callback refuses before training."""

import logging
import re
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from torch import nn
from transformers import Trainer, TrainerCallback

from hf_gip.core.validation import TOO_LARGE, as_list, brief
from hf_gip.features.encoders import resolve_encoder
from hf_gip.features.per_example_gradients import lora_layers
from hf_gip.features.text import check_no_transform
from hf_gip.selection import Selection

from .trainer_access import arrow, is_sharded
from .view import PackedView, SelectionView


def check_options(
    scores: Sequence[str],
    rows: Dataset,
    select: object,
    every_n_epochs: int,
    start_epoch: int,
    initial_selection: object,
) -> None:
    """Raise for options that contradict each other.

    Raises:
        TypeError: If `scores` is no list of names, `select` no function or `initial_selection` no selection.
        ValueError: If one is out of range.
    """
    if not isinstance(initial_selection, Selection | None):
        raise TypeError(
            f"`initial_selection` must be a `Selection`, got {type(initial_selection).__name__}: a subset has it as "
            "`.selection`."
        )
    _check_names(scores)
    if select is not None and not callable(select):
        raise TypeError(f"`select` must be a function or None, got {brief(select)}.")
    for name, value, least in (("every_n_epochs", every_n_epochs, 1), ("start_epoch", start_epoch, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < TOO_LARGE:
            raise ValueError(f"`{name}` must be a whole number, at least {least}, got {brief(value)}.")
    if scores and select is not None:
        raise ValueError(
            "`scores` must be left out with `select`, which takes GIP's place and with it the scores: use them inside "
            "your function."
        )
    numeric = [name for name, kind in rows.features.items() if re.match("u?int|float", getattr(kind, "dtype", ""))]
    empty = [name for name in scores if name in numeric and not _has_number(rows, name)]
    if empty:
        raise ValueError(f"`scores` must rate at least one row each, got no number in {empty}: leave those out.")
    wrong = [name for name in scores if name != "loss" and name not in numeric]
    if wrong:
        raise ValueError(f'`scores` must be numeric columns of the pool or "loss", got {wrong}: it has {numeric}.')


def _check_names(scores: Sequence[str]) -> None:
    if isinstance(scores, str):
        raise TypeError(f"`scores` must be a list of column names, got {scores!r}: write `scores=[{scores!r}]`.")
    if wrong := [name for name in as_list("scores", scores, "a list of column names") if not isinstance(name, str)]:
        raise TypeError(f"`scores` must be a list of column names, got {brief(wrong[0])} in it.")


def _has_number(rows: Dataset, name: str) -> bool:
    tables: Any = rows.select_columns(name).with_format("arrow").iter(10_000)
    return any(arrow.any(arrow.is_finite(table[name])).as_py() for table in tables)


def check_pool(rows: object, raw: object, *, packed: bool) -> None:
    """Raise unless the trainer's rows can be reached by position, and those of `pool` where it packs.

    Raises:
        TypeError: If one of the two is no dataset.
        ValueError: If one shows its rows through a function, there are none, or packing hides them.
    """
    if not isinstance(rows, Dataset):
        raise TypeError(
            f"`trainer.train_dataset` must be a `datasets.Dataset`, got {type(rows).__name__}: rows are chosen by "
            "position, so load or materialize the dataset first (`Dataset.from_generator`)."
        )
    check_no_transform("trainer.train_dataset", rows)
    if not isinstance(raw, Dataset | None):
        raise TypeError(f"`pool` must be a `datasets.Dataset`, got {type(raw).__name__}.")
    if raw is not None:
        check_no_transform("pool", raw)
    elif packed:
        raise ValueError(
            "`pool` must be the dataset that was given to the trainer, got None: with `packing=True` the trainer "
            "keeps packs, and rows cannot be told from them."
        )
    if not len(rows):
        raise ValueError(
            "`trainer.train_dataset` must hold at least one row with a labelled token within `max_length`, got none: "
            "raise `max_length` or check the masks."
        )


def check_encoder(encoder: object, features: object) -> None:
    """Raise unless `encoder` can be had and is asked for.

    Raises:
        ValueError: If other features than texts are read, or there is no such encoder.
    """
    if features == "text":
        resolve_encoder(encoder)  # type: ignore[arg-type] — refuses what is none
    elif encoder != "lexical":
        raise ValueError(
            f'`encoder` embeds texts, got {brief(encoder)} with `features={features!r}`: add `features="text"`.'
        )


def check_start(start_epoch: int, epochs: int) -> None:
    """Raise unless a run of so many epochs comes to the first selection.

    Raises:
        ValueError: If it ends before.
    """
    if start_epoch >= epochs:
        raise ValueError(
            f"`start_epoch` must be one of the run's {epochs} epoch(s), counted from 0, got {start_epoch}: no "
            "selection would be made."
        )


def check_push(push_to: str | None, push_every_selection: bool, pool: Dataset | None) -> None:
    """Raise unless the rows to publish are at hand and there is a name to publish them under.

    Raises:
        ValueError: If not.
    """
    if push_to is None:
        if push_every_selection:
            raise ValueError("`push_every_selection` needs the repository to push to, got `push_to=None`: name one.")
        return
    if not isinstance(push_to, str) or not re.fullmatch(r"[\w.\-]+/[\w.\-]+", push_to):
        raise ValueError(f"`push_to` must be a dataset repository such as 'me/subset', got {brief(push_to)}.")
    if pool is None:
        raise ValueError(
            "`push_to` publishes rows as they were given to the trainer, got `pool=None`: pass that dataset."
        )


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
