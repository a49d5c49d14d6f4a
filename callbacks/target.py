"""The target set, tokenized and labelled like the training set."""

from collections.abc import Sequence
from typing import Any

import pyarrow.compute
from datasets import Dataset
from transformers import Trainer
from trl.trainer.sft_trainer import SFTTrainer

from hf_gip.features.text import iter_texts, text_recipe

from .trainer_access import prepare

compute: Any = pyarrow.compute  # its functions are made at run time


def prepare_target(trainer: Trainer, target: Dataset | Sequence[str] | None) -> Dataset | None:
    """Prepare the target set as the training set was.

    Rows in a layout that the trainer does not read, e.g. questions and answers, become texts as in `hf_gip.embed`.

    Raises:
        ValueError: If a row lacks a value, no layout fits, or no row has a label left.
    """
    if target is None:
        return None
    field = getattr(trainer.args, "dataset_text_field", "text")
    if isinstance(target, Dataset) and _can_prepare(trainer, target, field):
        _check_complete(target, _columns_read(trainer, target, field))
        rows = prepare(trainer, target, "gip target")
    else:
        texts = _render_texts(target) if isinstance(target, Dataset) else list(target)
        rows = prepare(trainer, Dataset.from_dict({field: texts}), "gip target", formatted=True)
    if not len(rows):
        raise ValueError(
            f"`target` must have a row with a labelled token within `max_length`, got {len(target)} without: raise "
            "`max_length` or check the masks."
        )
    return rows


def _can_prepare(trainer: Trainer, target: Dataset, field: str) -> bool:
    """Whether the trainer's own preparation reads such rows."""
    columns = set(target.column_names)
    if not isinstance(trainer, SFTTrainer) or "input_ids" in columns:
        return True
    if trainer._formatting_func is None:
        return bool({"messages", "conversations", field} & columns) or {"prompt", "completion"} <= columns
    try:
        trainer._formatting_func(target[0])
    except KeyError:  # it reads columns of the training set
        return False
    return True


def _columns_read(trainer: Trainer, target: Dataset, field: str) -> list[str]:
    """The columns that the preparation reads; none if the user's `formatting_func` does."""
    columns = set(target.column_names)
    if "input_ids" in columns:
        return ["input_ids", *(columns & {"labels"})]
    if isinstance(trainer, SFTTrainer) and trainer._formatting_func is not None:
        return []
    layouts = (["messages"], ["conversations"], ["prompt", "completion"], [field])
    return next((layout for layout in layouts if set(layout) <= columns), [])


def _check_complete(target: Dataset, columns: Sequence[str]) -> None:
    """Raise if a value is missing, on which `SFTTrainer` would fail without a word about the row.

    Raises:
        ValueError: With the first such row.
    """
    for name in columns:
        start = 0
        tables: Any = target.select_columns(name).with_format("arrow").iter(10_000)
        for table in tables:
            row = compute.index(table[name].is_null(), True).as_py()
            if row >= 0:
                raise ValueError(
                    f"`target` must have a value in every row, got None in row {start + row} of column {name!r}: "
                    "leave such rows out."
                )
            start += len(table)


def _render_texts(target: Dataset) -> list[str]:
    try:
        return list(iter_texts(target, text_recipe(target)))
    except ValueError as error:
        raise ValueError(
            f"`target` must have columns of texts in a layout that is known, got {target.column_names}: name them as "
            "the training set's, or pass a list of texts."
        ) from error
