"""Rows to choose from, as the trainer prepared them, and what each is called outside."""

from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor
from transformers import Trainer
from trl.trainer.sft_trainer import SFTTrainer

from hf_gip.hashing import hash_rows

from .host import packing_of, positions_of, prepare_numbered, served_columns
from .match import check_packs, match_rows
from .options import check_pool


@dataclass(frozen=True)
class Pool:
    """The rows that a selection chooses from.

    Attributes:
        rows: Prepared rows: tokenised, labelled, extra columns kept.
        positions: Where each row stands in the dataset that was given to the trainer, (n,).
        ids: Each row's name: the id column's values, else its position.
        lengths: Tokens of each row, (n,); zeros where rows have no `input_ids`.
        fingerprint: A digest of all that reaches the collator, in row order.
        raw: The dataset that was given to the trainer, where it is known.
        id_column: The column that `ids` come from, None where they are positions.
    """

    rows: Dataset
    positions: Tensor
    ids: pa.Array
    lengths: Tensor
    fingerprint: str
    raw: Dataset | None
    id_column: str | None

    def __len__(self) -> int:
        return len(self.positions)

    def find(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The rows from these positions of the dataset given to the trainer, and which positions still have one."""
        last = int(torch.cat([self.positions, positions]).max())
        place = torch.full((last + 1,), -1)
        place[self.positions] = torch.arange(len(self))
        rows = place[positions]
        return rows[rows >= 0], rows >= 0


def read_pool(trainer: Trainer, raw: Dataset | None, id_column: str | None) -> Pool:
    """The pool of a trainer; with packing, prepared once more from `raw`, since packs have no row in them.

    Where `raw` is given, every row of it is prepared once more and must come out as the trainer has it.

    Raises:
        TypeError: If the trainer's rows cannot be reached by position, or `raw` is no dataset.
        ValueError: If there are none, packing hides them and `raw` is missing or another dataset, or the id column is
            missing.
    """
    packing = packing_of(trainer)
    check_pool(trainer.train_dataset, raw, packed=packing is not None)
    rows = cast(Dataset, trainer.train_dataset)
    if raw is None:
        positions = positions_of(trainer, rows)
        if positions is None:
            raise ValueError(
                f"`pool` must be the dataset that was given to the trainer, got None: {type(trainer).__name__} "
                "prepares rows in its own way (`_prepare_dataset`), and where they came from cannot be told."
            )
    elif packing is None:
        positions = match_rows(trainer, raw, rows)
    else:
        rows, positions = prepare_numbered(trainer, raw, truncate=False)
        check_packs(cast(SFTTrainer, trainer), packing, rows, positions)
    names, lengths = _names(rows, positions, id_column), token_counts(rows)
    digest = hash_rows(served_columns(trainer, rows))
    return Pool(rows, positions, names, lengths, digest, raw, id_column)


def token_counts(rows: Dataset) -> Tensor:
    """Tokens of each row, read through Arrow, (n,)."""
    if "input_ids" not in rows.column_names:
        return torch.zeros(len(rows), dtype=torch.int64)
    tables: Any = rows.select_columns("input_ids").with_format("arrow").iter(10_000)
    counts = [chunk.value_lengths().to_numpy() for table in tables for chunk in table["input_ids"].chunks]
    return torch.cat([torch.from_numpy(count.astype("int64")) for count in counts])


def _names(rows: Dataset, positions: Tensor, id_column: str | None) -> pa.Array:
    if id_column is None:
        return pa.array(positions.numpy())
    if id_column not in rows.column_names:
        raise ValueError(
            f"`id_column` must name a column of the training set, got {id_column!r}: it has {rows.column_names}."
        )
    table: Any = rows.select_columns(id_column).with_format("arrow")[:]
    names = table[id_column].combine_chunks()
    if len(names.unique()) != len(rows):
        raise ValueError(f"`id_column` must tell rows apart, got repeated values in {id_column!r}.")
    return names
