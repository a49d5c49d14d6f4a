"""Rows to choose from, as the trainer prepared them, and what each is called outside."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor
from transformers import Trainer

from .host import packing_of, positions_of, prepare
from .same import check_source, fingerprint


@dataclass(frozen=True)
class Pool:
    """The rows that a selection chooses from.

    Attributes:
        rows: Prepared rows: tokenised, labelled, extra columns kept.
        positions: Where each row stands in the dataset that was given to the trainer, (n,).
        ids: Each row's name: the id column's values, else its position.
        lengths: Tokens of each row, (n,); zeros where rows have no `input_ids`.
        fingerprint: A hash that other rows do not have.
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

    Raises:
        TypeError: If the trainer's rows cannot be reached by position.
        ValueError: If there are none, packing hides them and `raw` is missing or another dataset, or the id column is
            missing.
    """
    rows = trainer.train_dataset
    if not isinstance(rows, Dataset):
        raise TypeError(
            f"`trainer.train_dataset` must be a `datasets.Dataset`, got {type(rows).__name__}: rows are chosen by "
            "position, so load or materialise the dataset first (`Dataset.from_generator`)."
        )
    if packing_of(trainer) is not None:
        if raw is None:
            raise ValueError(
                "`pool` must be the dataset that was given to the trainer, got None: with `packing=True` the trainer "
                "keeps packs, and rows cannot be told from them."
            )
        rows = prepare(trainer, raw, "gip pool", truncate=False)
    if not len(rows):
        raise ValueError(
            "`trainer.train_dataset` must hold at least one row with a labelled token within `max_length`, got none: "
            "raise `max_length` or check the masks."
        )
    positions = positions_of(trainer, rows)
    if raw is not None and int(positions.max()) >= len(raw):
        raise ValueError(
            f"`pool` must be the dataset that was given to the trainer, got one of {len(raw)} row(s) where the "
            f"trainer has a row from position {int(positions.max())}: pass the same dataset."
        )
    if raw is not None:
        check_source(trainer, raw, rows, positions)
    names, lengths = _names(rows, positions, id_column), token_counts(rows)
    return Pool(rows, positions, names, lengths, fingerprint(rows, lengths), raw, id_column)


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
