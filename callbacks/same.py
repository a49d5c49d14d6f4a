"""Whether rows are those they should be, told without reading all of them again."""

from typing import Any

import pyarrow.compute
import torch
from datasets import Dataset
from torch import Tensor
from transformers import Trainer
from trl.trainer.sft_trainer import SFTTrainer

from hf_gip.hashing import hash_lines, row_hashes

from .host import packing_of, prepare
from .packs import Packing, no_bars

arrow: Any = pyarrow.compute  # whose functions are made at run time
SAMPLE = 16  # rows that are prepared once more
MARKS = 64  # rows of a fingerprint, beside every row's length


def check_source(trainer: Trainer, raw: Dataset, rows: Dataset, positions: Tensor) -> None:
    """Raise unless the trainer's rows come from `raw`, `rows` being these or, with packing, those made of `raw`.

    Packs are compared with the rows as a whole: how many tokens, and the sum of their ids. Without packing, rows from
    evenly spaced places are prepared once more and must give the same tokens; where preparing is not the trainer's
    affair, they must agree in the columns they share, and where they share none it cannot be told.

    Raises:
        ValueError: If they do not.
    """
    packing = packing_of(trainer)
    if packing is not None:
        packs: Any = trainer.train_dataset
        found, wanted = _sums(rows, packing), _sums(packs, None)
        said = f"{found[0]} tokens with a sum of {found[1]} where the trainer's packs have {wanted[0]} and {wanted[1]}"
    else:
        sample = torch.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).long()
        ours = _prepared(trainer, raw.select(positions[sample].tolist()))
        theirs = rows.select(sample.tolist())
        shared = sorted(set(ours.column_names) & set(theirs.column_names))
        shared = ["input_ids"] if "input_ids" in shared else shared
        found, wanted = (list(row_hashes(each, shared)) if shared else [] for each in (ours, theirs))
        same = sum(a == b for a, b in zip(found, wanted, strict=False))
        said = f"other rows in {len(theirs) - same} of {len(theirs)} places looked at"
    if found != wanted:
        raise ValueError(
            f"`pool` must be the dataset that was given to the trainer, got {said}: pass the same dataset."
        )


def fingerprint(rows: Dataset, lengths: Tensor) -> str:
    """A hash of all lengths and of the tokens of some rows: the same in every process that prepares the same rows."""
    marks: list[str] = []
    if "input_ids" in rows.column_names:
        sample = torch.linspace(0, len(rows) - 1, min(MARKS, len(rows))).long()
        marks = list(row_hashes(rows.select(sample.tolist()), ["input_ids"]))
    return hash_lines([*lengths.tolist(), *marks])


def _prepared(trainer: Trainer, rows: Dataset) -> Dataset:
    if not isinstance(trainer, SFTTrainer) or trainer._skip_prepare_dataset:
        return rows
    with no_bars():
        return prepare(trainer, rows, "gip pool")


def _sums(rows: Dataset, packing: Packing | None) -> tuple[int, int]:
    """How many tokens, and the sum of their ids, through Arrow; of each row only what a pack takes."""
    count = total = 0
    tables: Any = rows.select_columns("input_ids").with_format("arrow").iter(10_000)
    for column in (chunk for table in tables for chunk in table["input_ids"].chunks):
        kept = column if packing is None or packing.strategy != "bfd" else arrow.list_slice(column, 0, packing.length)
        tokens = arrow.list_flatten(kept)
        count, total = count + len(tokens), total + (arrow.sum(tokens).as_py() or 0)
    return count, total
