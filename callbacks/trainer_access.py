"""What is read from a trainer: its model, how it prepares rows, and where its rows came from."""

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, Trainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from .packing import Packing

# --- The model -------------------------------------------------------------------------------------------------------


def wrapped_model(trainer: Trainer) -> nn.Module:
    """The model inside its wrappers of DDP, FSDP or ZeRO, as training calls it."""
    return cast(nn.Module, trainer.model_wrapped)


def unwrapped_model(trainer: Trainer) -> nn.Module:
    """The model without the wrappers of DDP and FSDP, adapters on."""
    return trainer.accelerator.unwrap_model(wrapped_model(trainer))


def base_model(trainer: Trainer) -> Any:
    """The model without the wrappers of DDP, FSDP and PEFT."""
    model: Any = unwrapped_model(trainer)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def is_sharded(trainer: Trainer) -> bool:
    """Whether a process holds parts of the weights only."""
    return trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled


# --- Preparing rows --------------------------------------------------------------------------------------------------


def packing_of(trainer: Trainer) -> Packing | None:
    """How the trainer packs, None if its items are rows."""
    if not prepares_rows(trainer):
        return None
    args = cast(SFTConfig, trainer.args)
    if not args.packing or args.max_length is None:
        return None
    return Packing(args.max_length, cast(Any, args.packing_strategy))


def prepares_rows(trainer: Trainer) -> bool:
    """Whether the trainer tokenizes and labels its dataset, rather than train on it as it is."""
    return isinstance(trainer, SFTTrainer) and not trainer._skip_prepare_dataset


def prepare(
    trainer: Trainer,
    rows: Dataset,
    name: str,
    *,
    truncate: bool = True,
    formatted: bool = False,
    hidden_column: str | None = None,
) -> Dataset:
    """Tokenize and label `rows` as the trainer did its own, never packed, never shuffled.

    Args:
        trainer: Its tokenizer, template and masks apply.
        rows: Raw or tokenized rows.
        name: How progress bars name them.
        truncate: Whether to cut them to `max_length` (and drop those without a label left).
        formatted: Whether they are texts already, so that `formatting_func` has nothing to do.
        hidden_column: A column that `formatting_func` must not see.

    Raises:
        ValueError: If the trainer is no `SFTTrainer` and the rows are not tokenized.
    """
    is_tokenized = "input_ids" in rows.column_names
    if not isinstance(trainer, SFTTrainer):
        if not is_tokenized:
            raise ValueError(
                f"`target` must be tokenized for a plain `Trainer`, got columns {rows.column_names}: give it the "
                "columns of the training set (`input_ids`, …)."
            )
        return rows
    args = copy.copy(cast(SFTConfig, trainer.args))
    args.shuffle_dataset = False
    if not truncate:
        args.max_length = None
    formatter = None if is_tokenized or formatted else trainer._formatting_func
    if formatter is not None and hidden_column is not None:
        formatter = _without_column(formatter, hidden_column)
    tokenizer = cast(PreTrainedTokenizerBase, trainer.processing_class)
    return cast(Dataset, trainer._prepare_dataset(rows, tokenizer, args, False, formatter, name))


def _without_column(formatter: Callable[[dict[str, Any]], Any], column: str) -> Callable[[dict[str, Any]], Any]:
    return lambda row: formatter({name: value for name, value in row.items() if name != column})


def pack_as_trained(trainer: SFTTrainer, rows: Dataset) -> Dataset:
    """Pack prepared rows as the trainer does, shuffled as it shuffles."""
    tokenizer = cast(PreTrainedTokenizerBase, trainer.processing_class)
    args = cast(SFTConfig, trainer.args)
    return cast(Dataset, trainer._prepare_dataset(rows, tokenizer, args, True, None, "gip pool"))


def served_columns(trainer: Trainer, rows: Dataset) -> Dataset:
    """The columns that reach the collator, as `Trainer` would cut them."""
    return trainer._remove_unused_columns(rows, description="training")


# --- Positions -------------------------------------------------------------------------------------------------------


def row_positions(trainer: Trainer, rows: Dataset) -> Tensor | None:
    """Where the trainer's rows stood in the dataset it was made with, (n,), from what TRL does to that dataset.

    With `max_length`, TRL writes a new table in the order given, then drops and shuffles by an index of that table:
    the index is the position. Without, it drops nothing, so there is only its shuffle, whatever index the dataset had.
    None if the trainer overrides the preparation.
    """
    if not prepares_rows(trainer):
        return torch.arange(len(rows))
    if cast(Any, type(trainer))._prepare_dataset is not SFTTrainer._prepare_dataset:
        return None
    args = cast(SFTConfig, trainer.args)
    return trl_order(trainer, len(rows)) if args.max_length is None else _table_index(rows)


def trl_order(trainer: Trainer, n: int) -> Tensor:
    """How TRL orders n rows or packs: as they come, or with `shuffle_dataset` by the run's seed, (n,)."""
    args = cast(SFTConfig, trainer.args)
    if not args.shuffle_dataset:
        return torch.arange(n)
    return _table_index(Dataset.from_dict({"row": list(range(n))}).shuffle(seed=args.seed, keep_in_memory=True))


def _table_index(rows: Dataset) -> Tensor:
    """Which rows of its table a dataset shows, (n,)."""
    index = rows._indices
    if index is None:
        return torch.arange(len(rows))
    return torch.from_numpy(index.column(0).to_numpy().astype("int64"))
