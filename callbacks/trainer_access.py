"""All that is read from a trainer."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import pyarrow.compute
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, Trainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from hf_gip.features.text import check_no_transform, iter_texts, text_recipe

from .packing import Packing

arrow: Any = pyarrow.compute  # whose functions are made at run time


def check_target(target: object) -> None:
    """Raise unless `target` is rows or texts.

    Raises:
        TypeError: If it is neither.
        ValueError: If it is empty.
    """
    texts = isinstance(target, list | tuple) and all(isinstance(text, str) for text in target)
    if not (texts or isinstance(target, Dataset)):
        raise TypeError(f"`target` must be a `datasets.Dataset` or a list of texts, got {type(target).__name__}.")
    if len(target) == 0:  # type: ignore[arg-type]
        raise ValueError("`target` must hold at least one row, got none.")
    if isinstance(target, Dataset):
        check_no_transform("target", target)


def check_no_gaps(target: Dataset, names: Sequence[str]) -> None:
    """Raise unless every row of `target` has a value in each of these columns, which `SFTTrainer` takes for granted.

    Raises:
        ValueError: With the first that has none.
    """
    for name in names:
        start = 0
        tables: Any = target.select_columns(name).with_format("arrow").iter(10_000)
        for table in tables:
            place = arrow.index(table[name].is_null(), True).as_py()
            if place >= 0:
                raise ValueError(
                    f"`target` must have a value in every row, got None in row {start + place} of column {name!r}: "
                    "leave such rows out."
                )
            start += len(table)


T = TypeVar("T")


def on_main(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Do `work` on the main process and return its result on every process.

    An error is raised on all of them: a process left waiting for the others would hang the job.

    Raises:
        RuntimeError: On the other processes, with the main process's message, when `work` failed.
    """
    if accelerator.num_processes == 1:
        return work()
    box: list[Any] = [None, None]
    failure: Exception | None = None
    if accelerator.is_main_process:
        try:
            box[0] = work()
        except Exception as error:
            failure, box[1] = error, f"{type(error).__name__}: {error}"
    broadcast_object_list(box)
    if failure is not None:
        raise failure
    if box[1] is not None:
        raise RuntimeError(f"The main process failed with {box[1]}")
    return box[0]


def packing_of(trainer: Trainer) -> Packing | None:
    """How the trainer packs, None where its items are rows."""
    if not isinstance(trainer, SFTTrainer) or trainer._skip_prepare_dataset:
        return None
    args = cast(SFTConfig, trainer.args)
    if not args.packing or args.max_length is None:
        return None
    return Packing(args.max_length, cast(Any, args.packing_strategy))


def wrapped_model(trainer: Trainer) -> nn.Module:
    """The model inside its wrappers of DDP, FSDP or ZeRO, as training calls it."""
    return cast(nn.Module, trainer.model_wrapped)


def unwrapped_model(trainer: Trainer) -> nn.Module:
    """The model without the wrappers of DDP and FSDP, adapters on."""
    return trainer.accelerator.unwrap_model(wrapped_model(trainer))


def is_sharded(trainer: Trainer) -> bool:
    """Whether a process holds parts of the weights only."""
    return trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled


def bare_model(trainer: Trainer) -> Any:
    """The model without the wrappers of DDP, FSDP and PEFT."""
    model: Any = unwrapped_model(trainer)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def served_columns(trainer: Trainer, rows: Dataset) -> Dataset:
    """The columns that reach the collator, as `Trainer` would cut them."""
    return trainer._remove_unused_columns(rows, description="training")


def prepare(
    trainer: Trainer,
    rows: Dataset,
    name: str,
    *,
    truncate: bool = True,
    formatted: bool = False,
    unread: str | None = None,
) -> Dataset:
    """Tokenize and label `rows` as the trainer did its own, never packed, never shuffled.

    Args:
        trainer: Whose tokenizer, template and masks apply.
        rows: Raw or tokenized rows.
        name: What progress bars call them.
        truncate: Whether to cut them to `max_length` (and drop those without a label left).
        formatted: Whether they are texts already, so that `formatting_func` has nothing to do.
        unread: A column that `formatting_func` must not see.

    Raises:
        ValueError: If the trainer is no `SFTTrainer` and the rows are not tokenized.
    """
    tokenized = "input_ids" in rows.column_names
    if not isinstance(trainer, SFTTrainer):
        if not tokenized:
            raise ValueError(
                f"`target` must be tokenized for a plain `Trainer`, got columns {rows.column_names}: give it the "
                "columns of the training set (`input_ids`, …)."
            )
        return rows
    args = copy.copy(cast(SFTConfig, trainer.args))
    args.shuffle_dataset = False
    if not truncate:
        args.max_length = None
    formatter = None if tokenized or formatted else trainer._formatting_func
    if formatter is not None and unread is not None:
        formatter = _blind(formatter, unread)
    tokenizer = cast(PreTrainedTokenizerBase, trainer.processing_class)
    return cast(Dataset, trainer._prepare_dataset(rows, tokenizer, args, False, formatter, name))


def prepare_numbered(trainer: Trainer, rows: Dataset, *, truncate: bool) -> tuple[Dataset, Tensor]:
    """Prepare rows that carry their own number: what comes out, and which of `rows` each was, ascending, (n,).

    Raises:
        ValueError: If the trainer's own preparation drops the number.
    """
    column = "gip_row"
    while column in rows.column_names:
        column += "_"
    numbered = rows.add_column(column, list(range(len(rows))))
    prepared = prepare(trainer, numbered, "gip pool", truncate=truncate, unread=column)
    if column not in prepared.column_names:
        raise ValueError(
            f"`trainer` must keep columns that it does not know for `pool`, got {type(trainer).__name__}, whose "
            f"`_prepare_dataset` drops {column!r}, the number of a row: keep it there, or leave `pool` out."
        )
    table: Any = prepared.select_columns(column).with_format("arrow")[:]
    numbers = torch.from_numpy(table[column].to_numpy().astype("int64"))
    prepared = prepared.remove_columns(column)
    if bool((numbers.diff() > 0).all()):
        return prepared, numbers
    order = numbers.argsort()
    return prepared.select(order.tolist()), numbers[order]


def pack_as_trained(trainer: SFTTrainer, rows: Dataset) -> Dataset:
    """What the trainer makes of prepared rows with packing, shuffled as it shuffles."""
    tokenizer = cast(PreTrainedTokenizerBase, trainer.processing_class)
    args = cast(SFTConfig, trainer.args)
    return cast(Dataset, trainer._prepare_dataset(rows, tokenizer, args, True, None, "gip pool"))


def _blind(formatter: Callable[[dict[str, Any]], Any], column: str) -> Callable[[dict[str, Any]], Any]:
    return lambda row: formatter({name: value for name, value in row.items() if name != column})


def prepare_target(trainer: Trainer, target: Dataset | Sequence[str] | None) -> Dataset | None:
    """The target set, prepared as the training set was, or as texts where it has columns that only `embed` knows.

    Raises:
        ValueError: If nothing of it is left, or a row lacks what is read.
    """
    if target is None:
        return None
    check_target(target)
    if isinstance(target, Dataset) and _is_read(trainer, target):
        check_no_gaps(target, _read_columns(trainer, target))
        rows = prepare(trainer, target, "gip target")
    else:
        texts = _texts_of(target) if isinstance(target, Dataset) else list(target)
        field = getattr(trainer.args, "dataset_text_field", "text")
        rows = prepare(trainer, Dataset.from_dict({field: texts}), "gip target", formatted=True)
    if not len(rows):
        raise ValueError(
            f"`target` must have a row with a labelled token within `max_length`, got {len(target)} without: raise "
            "`max_length` or check the masks."
        )
    return rows


def _is_read(trainer: Trainer, target: Dataset) -> bool:
    """Whether the trainer makes training rows of such rows."""
    known = set(target.column_names)
    if not isinstance(trainer, SFTTrainer) or "input_ids" in known:
        return True
    if trainer._formatting_func is None:
        names = {"messages", "conversations", cast(SFTConfig, trainer.args).dataset_text_field}
        return bool(names & known) or {"prompt", "completion"} <= known
    try:
        trainer._formatting_func(target[0])
    except KeyError:  # it looks for columns of the training set
        return False
    return True


def _read_columns(trainer: Trainer, target: Dataset) -> list[str]:
    """The columns that the trainer makes rows of; none where a function of the user's reads them."""
    field = getattr(trainer.args, "dataset_text_field", "text")
    layouts = (["messages"], ["conversations"], ["prompt", "completion"], [field])
    known = set(target.column_names)
    if "input_ids" in known:
        return ["input_ids", *(known & {"labels"})]
    if isinstance(trainer, SFTTrainer) and trainer._formatting_func is not None:
        return []
    return next((layout for layout in layouts if set(layout) <= known), [])


def _texts_of(target: Dataset) -> list[str]:
    """The texts of rows in a layout that the trainer does not read.

    Raises:
        ValueError: If no known layout fits.
    """
    try:
        return list(iter_texts(target, text_recipe(target)))
    except ValueError as error:
        raise ValueError(
            f"`target` must have columns of texts in a layout that is known, got {target.column_names}: name them as "
            "the training set's, or pass a list of texts."
        ) from error


def prepares(trainer: Trainer) -> bool:
    """Whether the trainer makes rows of what it is given, rather than train on it as it is."""
    return isinstance(trainer, SFTTrainer) and not trainer._skip_prepare_dataset


def positions_of(trainer: Trainer, rows: Dataset) -> Tensor | None:
    """Where the trainer's own rows stood in the dataset it was given, (n,), from what TRL does to one.

    With `max_length`, it writes a new table in the order given, then drops and shuffles by an index of that table:
    the index is the position. Without, it drops nothing, so there is only its shuffle, whatever index the dataset had.
    None where the trainer has a preparation of its own.
    """
    if not prepares(trainer):
        return torch.arange(len(rows))
    if cast(Any, type(trainer))._prepare_dataset is not SFTTrainer._prepare_dataset:
        return None
    args = cast(SFTConfig, trainer.args)
    return trl_order(trainer, len(rows)) if args.max_length is None else _index(rows)


def trl_order(trainer: Trainer, n: int) -> Tensor:
    """How TRL orders n rows or packs: as they come, or with `shuffle_dataset` by the run's seed, (n,)."""
    args = cast(SFTConfig, trainer.args)
    if not args.shuffle_dataset:
        return torch.arange(n)
    return _index(Dataset.from_dict({"row": list(range(n))}).shuffle(seed=args.seed, keep_in_memory=True))


def _index(rows: Dataset) -> Tensor:
    """Which rows of its table a dataset shows, (n,)."""
    index = rows._indices
    if index is None:
        return torch.arange(len(rows))
    return torch.from_numpy(index.column(0).to_numpy().astype("int64"))
