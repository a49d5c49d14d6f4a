"""Checks of the callback's arguments and of its trainer, before long work."""

import logging
import re
from collections.abc import Sequence
from typing import Any

import pyarrow.compute
from datasets import Dataset
from torch import nn
from transformers import Trainer, TrainerCallback

from hf_gip.core.validation import as_list, brief, check_bool, check_choice, check_int, check_number, check_type
from hf_gip.features.encoders import resolve_encoder
from hf_gip.features.per_example_gradients import lora_layers
from hf_gip.features.text import check_no_transform
from hf_gip.hub.push import check_repo_id
from hf_gip.selection import Selection

from .trainer_access import is_sharded, packing_of
from .view import PackedView, SelectionView

logger = logging.getLogger(__name__)
compute: Any = pyarrow.compute  # its functions are made at run time

FEATURES = ("hidden", "hidden_gradient", "lora_gradient", "last_layer_gradient", "text")
OBJECTIVES = ("projection", "information")
SORTED_BY_LENGTH = ("group_by_length", "batch_rebalance")


# --- When the callback is made ---------------------------------------------------------------------------------------


def check_trainer(trainer: Trainer) -> None:
    """Raise if re-selection would go wrong in silence; warn if it merely costs.

    Raises:
        TypeError: If it is no trainer, or its training set no `datasets.Dataset`.
        ValueError: If it has a selection already, splits a batch over processes, or has no row to train on.
    """
    check_type("trainer", trainer, Trainer, "a `transformers.Trainer`", ": `GIPSelectionCallback(trainer, k)`")
    rows: Any = trainer.train_dataset
    if isinstance(rows, SelectionView | PackedView):
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
    advice = ": rows are chosen by position, so load or materialize the dataset first (`Dataset.from_generator`)"
    check_type("trainer.train_dataset", rows, Dataset, "a `datasets.Dataset`", advice)
    check_no_transform("trainer.train_dataset", rows)
    if not len(rows):
        raise ValueError(
            "`trainer.train_dataset` must hold at least one row with a labelled token within `max_length`, got none: "
            "raise `max_length` or check the masks."
        )
    if trainer.args.train_sampling_strategy in SORTED_BY_LENGTH:
        logger.warning(
            "`train_sampling_strategy=%r` sorts by the lengths of the first rows: later selections are served "
            "correctly but no longer grouped by length.",
            trainer.args.train_sampling_strategy,
        )


def check_arguments(
    trainer: Trainer,
    *,
    features: str,
    encoder: object,
    target: object,
    scores: Sequence[str],
    objective: str,
    noise: float | None,
    select: object,
    pool: Dataset | None,
    every_n_epochs: int,
    start_epoch: int,
    initial_selection: object,
    allow_repeats: bool,
    num_candidates: int | None,
    push_to: str | None,
    push_every_selection: bool,
) -> None:
    """Raise for an argument that is wrong, or does not fit the others or the trainer.

    Raises:
        TypeError: If one is of another type than it should be.
        ValueError: If one is out of range or contradicts another.
    """
    check_choice("features", features, FEATURES)
    check_choice("objective", objective, OBJECTIVES)
    check_number("noise", noise, optional=True)
    check_int("every_n_epochs", every_n_epochs)
    check_int("start_epoch", start_epoch, 0)
    check_int("num_candidates", num_candidates, optional=True)
    check_bool("allow_repeats", allow_repeats)
    if select is not None and not callable(select):
        raise TypeError(f"`select` must be a function or None, got {brief(select)}.")
    advice = ": a subset has it as `.selection`"
    check_type("initial_selection", initial_selection, Selection | None, "a `Selection`", advice)
    _check_model(trainer, features)
    _check_encoder(trainer, features, encoder)
    _check_pool(trainer, pool)
    _check_push(push_to, push_every_selection, pool)
    rows: Any = trainer.train_dataset if packing_of(trainer) is None else pool
    _check_scores(scores, rows, select)
    _check_target(target)


def _check_model(trainer: Trainer, features: str) -> None:
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
        lora_layers(model)  # refuses adapters whose gradients cannot be read


def _check_encoder(trainer: Trainer, features: str, encoder: Any) -> None:
    if features != "text":
        if encoder != "lexical":
            raise ValueError(
                f'`encoder` embeds texts, got {brief(encoder)} with `features={features!r}`: add `features="text"`.'
            )
        return
    resolve_encoder(encoder)
    columns, tokenizer = getattr(trainer.train_dataset, "column_names", []), trainer.processing_class
    if "input_ids" not in columns or not hasattr(tokenizer, "batch_decode"):
        raise ValueError(
            f'`features="text"` needs `input_ids` and a tokenizer to decode them, got columns {list(columns)} and '
            f"{type(tokenizer).__name__}: pass `processing_class=` to the trainer."
        )


def _check_pool(trainer: Trainer, pool: Dataset | None) -> None:
    check_type("pool", pool, Dataset | None, "a `datasets.Dataset`")
    if pool is not None:
        check_no_transform("pool", pool)
    elif packing_of(trainer) is not None:
        raise ValueError(
            "`pool` must be the dataset that was given to the trainer, got None: with `packing=True` the trainer "
            "keeps packs, and rows cannot be told from them."
        )


def _check_push(push_to: object, push_every_selection: bool, pool: Dataset | None) -> None:
    if push_to is None:
        if push_every_selection:
            raise ValueError("`push_every_selection` needs the repository to push to, got `push_to=None`: name one.")
        return
    check_repo_id("push_to", push_to)
    if pool is None:
        raise ValueError(
            "`push_to` publishes rows as they were given to the trainer, got `pool=None`: pass that dataset."
        )


def _check_scores(scores: Sequence[str], rows: Dataset, select: object) -> None:
    if isinstance(scores, str):
        raise TypeError(f"`scores` must be a list of column names, got {scores!r}: write `scores=[{scores!r}]`.")
    if invalid := [name for name in as_list("scores", scores, "a list of column names") if not isinstance(name, str)]:
        raise TypeError(f"`scores` must be a list of column names, got {brief(invalid[0])} in it.")
    if scores and select is not None:
        raise ValueError(
            "`scores` must be left out with `select`, which takes GIP's place and with it the scores: use them inside "
            "your function."
        )
    numeric = [name for name, kind in rows.features.items() if re.match("u?int|float", getattr(kind, "dtype", ""))]
    if invalid := [name for name in scores if name != "loss" and name not in numeric]:
        raise ValueError(f'`scores` must be numeric columns of the pool or "loss", got {invalid}: it has {numeric}.')
    if empty := [name for name in scores if name in numeric and not _has_finite(rows, name)]:
        raise ValueError(f"`scores` must rate at least one row each, got no number in {empty}: leave those out.")


def _has_finite(rows: Dataset, column: str) -> bool:
    tables: Any = rows.select_columns(column).with_format("arrow").iter(10_000)
    return any(compute.any(compute.is_finite(table[column])).as_py() for table in tables)


def _check_target(target: object) -> None:
    is_texts = isinstance(target, list | tuple) and all(isinstance(text, str) for text in target)
    if target is None:
        return
    if not (is_texts or isinstance(target, Dataset)):
        raise TypeError(f"`target` must be a `datasets.Dataset` or a list of texts, got {type(target).__name__}.")
    if len(target) == 0:  # type: ignore[arg-type]
        raise ValueError("`target` must hold at least one row, got none.")
    if isinstance(target, Dataset):
        check_no_transform("target", target)


def check_batches(trainer: Trainer, k: int) -> None:
    """Warn if the loader would repeat or drop rows to come out even.

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


# --- When training begins --------------------------------------------------------------------------------------------


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
    attached = [other for other in trainer.callback_handler.callbacks if isinstance(other, type(callback))]
    if attached != [callback]:
        raise RuntimeError(
            f"The callback must be added once, to the trainer it was made with, got {len(attached)} there: "
            "`trainer.add_callback(GIPSelectionCallback(trainer, …))`."
        )
    if not isinstance(trainer.train_dataset, SelectionView | PackedView):
        raise RuntimeError(
            "`trainer.train_dataset` must be left as the callback set it, got "
            f"{type(trainer.train_dataset).__name__}: change the training set before the callback is made."
        )


def check_start(start_epoch: int, epochs: int) -> None:
    """Raise if a run of so many epochs ends before the first selection.

    Raises:
        ValueError: If it does.
    """
    if start_epoch >= epochs:
        raise ValueError(
            f"`start_epoch` must be one of the run's {epochs} epoch(s), counted from 0, got {start_epoch}: no "
            "selection would be made."
        )


def check_checkpoint(state: Any, run: dict[str, Any]) -> dict[str, Any]:
    """What the callback saved in a checkpoint, if it belongs to this run.

    Args:
        state: The callback's state in the checkpoint.
        run: `k`, the pool's size (`pool`) and fingerprint (`rows`), the target's digest and the rows a step takes
            (`batch`), as they are now.

    Raises:
        RuntimeError: If the checkpoint has no state of the callback.
        ValueError: If one of these differs.
    """
    saved = state.get("attributes", {}).get("saved") if isinstance(state, dict) else None
    if saved is None:
        raise RuntimeError(
            "The checkpoint was written without this callback, on other rows and another number of steps: start a "
            "new run from its weights instead of resuming it."
        )
    was, now = (
        "none" if digest is None else f"one of digest {digest[:8]}…" for digest in (saved["target"], run["target"])
    )
    sentences = {
        ("k", "pool"): f"`k` and the pool must be those of the checkpoint, got k={run['k']} of {run['pool']} row(s) "
        f"where it has k={saved['k']} of {saved['pool']}: pass the same.",
        ("rows",): f"The training set must be the checkpoint's, got as many rows ({run['pool']}) with other tokens: "
        "pass the same rows, tokenizer and `max_length`, or start a new run from its weights.",
        ("target",): f"`target` must be the checkpoint's, got {now} where it has {was}: pass the same rows, or start "
        "a new run from its weights.",
        ("batch",): f"An optimizer step must take as many rows as in the checkpoint, got {run['batch']} where it has "
        f"{saved['batch']}, so that epochs begin elsewhere: keep processes × batch × accumulation.",
    }
    for names, sentence in sentences.items():
        if any(saved[name] != run[name] for name in names):
            raise ValueError(sentence)
    return saved
