"""The rows that a run may choose from."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor
from transformers import Trainer
from trl.trainer.sft_trainer import SFTTrainer

from hf_gip.hashing import hash_rows, hash_token_rows, row_hashes

from .packing import Packing, no_bars
from .trainer_access import (
    pack_as_trained,
    packing_of,
    positions_of,
    prepare_numbered,
    prepares,
    served_columns,
    trl_order,
)
from .validation import check_pool

COLUMNS = ["input_ids", "labels"]  # of a pack
ANOTHER = (
    "`pool` must be the dataset that was given to the trainer, in the same order, got one that first differs in row "
    "{}: pass the same dataset."
)


def match_rows(trainer: Trainer, raw: Dataset, rows: Dataset) -> Tensor:
    """Where each of the trainer's rows stands in `raw`, (n,).

    Every row of `raw` is prepared once more and must come out as the trainer has it. Where preparing is not the
    trainer's affair, the two must agree in the columns they share.

    Raises:
        ValueError: If a row differs, or nothing that both have tells one row from another.
    """
    if prepares(trainer):
        ours, numbers = prepare_numbered(trainer, raw, truncate=True)
    else:
        ours, numbers = raw, torch.arange(len(raw))
    shared = sorted(set(ours.column_names) & set(rows.column_names))
    positions = positions_of(trainer, rows)
    if positions is None:
        return _match_content(ours, numbers, rows, shared)
    order = positions.argsort()
    theirs = rows if bool((order.diff() > 0).all()) else rows.select(order.tolist())
    if not torch.equal(numbers, positions[order]) or hash_rows(ours, shared) != hash_rows(theirs, shared):
        found = dict(zip(numbers.tolist(), row_hashes(ours, shared), strict=True))
        wanted = dict(zip(positions[order].tolist(), row_hashes(theirs, shared), strict=True))
        differ = [row for row in {*found, *wanted} if found.get(row) != wanted.get(row)]
        if differ or len(ours) != len(rows):  # else they differ in the width of their numbers
            raise ValueError(ANOTHER.format(min(differ, default=len(ours))))
    told = "input_ids" in shared or set(raw.column_names) <= set(shared)
    if not told and len(set(row_hashes(ours, shared) if shared else ())) < len(ours):
        raise ValueError(
            f"`pool` must share with the training set a column that tells rows apart, got {shared}: keep one through "
            "your own preparation, such as an id."
        )
    return positions


def _match_content(ours: Dataset, numbers: Tensor, rows: Dataset, shared: list[str]) -> Tensor:
    """The position of the row of equal content, (n,); of several, the next that is left.

    Raises:
        ValueError: If a row has none, or one is left.
    """
    places: dict[str, deque[int]] = {}
    for number, digest in zip(numbers.tolist(), row_hashes(ours, shared), strict=True):
        places.setdefault(digest, deque()).append(number)
    positions = [left.popleft() if (left := places.get(digest)) else -1 for digest in row_hashes(rows, shared)]
    if -1 in positions or len(positions) < len(ours):
        unused = (number for left in places.values() for number in left)
        raise ValueError(ANOTHER.format(min(unused, default=len(ours))))
    return torch.tensor(positions)


def check_packs(trainer: SFTTrainer, packing: Packing, rows: Dataset, positions: Tensor) -> None:
    """Raise unless prepared rows are packed to the very packs that the trainer has.

    Raises:
        ValueError: With the first row that differs, or that the order does.
    """
    packs, rows = cast(Dataset, trainer.train_dataset), rows.select_columns(COLUMNS)
    with no_bars():
        if hash_rows(pack_as_trained(trainer, rows), COLUMNS) == hash_rows(packs, COLUMNS):
            return
    if packing.keeps_boundaries:
        place = _first_without_piece(packing, rows, packs)
    else:
        place = _first_in_stream(trainer, rows, packs)
    if place is None:
        raise ValueError(
            "`pool` must be the dataset that was given to the trainer, in the same order, got the same rows in "
            "another order: pass the same dataset."
        )
    raise ValueError(ANOTHER.format(int(positions[place]) if place < len(rows) else len(rows)))


def _first_without_piece(packing: Packing, rows: Dataset, packs: Dataset) -> int | None:
    """The first row of which a piece is in no pack, the number of rows where packs hold more, None where all fits."""
    left = Counter(piece for pack in packs for piece in _pieces(cast(Any, pack), cast(Any, pack)["seq_lengths"]))
    for place, row in enumerate(cast(Any, rows)):
        size, step = len(row["input_ids"]), packing.length
        sizes = [min(step, size - start) for start in range(0, size, step)]
        for piece in _pieces(row, sizes[:1] if packing.strategy == "bfd" else sizes):
            if not left[piece]:
                return place
            left[piece] -= 1
    return len(rows) if left.total() else None


def _pieces(row: Mapping[str, Any], sizes: list[int]) -> Iterator[str]:
    """A digest of each piece of a row or pack, pieces of these sizes one after the other."""
    start = 0
    for size in sizes:
        yield hash_token_rows([{name: row[name][start : start + size] for name in COLUMNS}])
        start += size


def _first_in_stream(trainer: SFTTrainer, rows: Dataset, packs: Dataset) -> int:
    """The row where the tokens of wrapped packs, one after the other, first differ from those of the rows."""
    order = trl_order(trainer, len(rows))
    rows = rows.select(order.tolist())
    packs = packs.select(trl_order(trainer, len(packs)).argsort().tolist())
    ours, theirs = ([_flat(each, name) for name in COLUMNS] for each in (rows, packs))
    size = min(len(ours[0]), len(theirs[0]))
    differ = torch.stack([a[:size] != b[:size] for a, b in zip(ours, theirs, strict=True)]).any(dim=0).nonzero()
    first = int(differ[0]) if len(differ) else size
    ends = torch.tensor([len(tokens) for tokens in cast(Any, rows)["input_ids"]]).cumsum(0)
    place = int(torch.searchsorted(ends, first, right=True))
    return int(order[place]) if place < len(order) else len(order)


def _flat(rows: Dataset, column: str) -> Tensor:
    """The numbers of a column of lists, one after the other."""
    tables: Any = rows.select_columns(column).with_format("arrow").iter(10_000)
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for table in tables for chunk in table[column].chunks]
    return torch.cat([torch.from_numpy(chunk.astype("int64")) for chunk in chunks])


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
