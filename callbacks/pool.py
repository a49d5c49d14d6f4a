"""The rows that a run may choose from, and the proof that `pool` is the dataset the trainer was made with."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Trainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from hf_gip.dataset.select import check_id_column
from hf_gip.hashing import hash_rows, hash_token_rows, row_hashes

from .packing import Packing, no_progress_bars
from .trainer_access import (
    pack_as_trained,
    packing_of,
    prepare,
    prepares_rows,
    row_positions,
    served_columns,
    trl_order,
)

compute: Any = pyarrow.compute  # its functions are made at run time
PACKED_COLUMNS = ["input_ids", "labels"]
ARROW_ROWS = 10_000  # rows that are compared at a time
DIFFERS = (
    "`pool` must be the dataset that was given to the trainer, in the same order, got one that first differs in row "
    "{}: pass the same dataset."
)


@dataclass(frozen=True)
class Pool:
    """The rows that a selection chooses from.

    Attributes:
        rows: Prepared rows: tokenized, labelled, extra columns kept.
        positions: Where each row stands in the dataset that was given to the trainer, (n,).
        ids: Each row's name: the id column's values, else its position.
        lengths: Tokens of each row, (n,); zeros if rows have no `input_ids`.
        fingerprint: A digest of all that reaches the collator, in row order.
        raw: The dataset that was given to the trainer, if it was passed as `pool`.
        id_column: The column that `ids` come from, None if they are positions.
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

    def locate(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The rows at these positions of the dataset given to the trainer, and which positions have one."""
        last = int(torch.cat([self.positions, positions]).max())
        row_at = torch.full((last + 1,), -1)
        row_at[self.positions] = torch.arange(len(self))
        rows = row_at[positions]
        return rows[rows >= 0], rows >= 0


def read_pool(trainer: Trainer, raw: Dataset | None, id_column: str | None) -> Pool:
    """The pool of a trainer; with packing, prepared again from `raw`, since packs do not show their rows.

    Raises:
        ValueError: If `raw` is another dataset than the trainer's, the rows' positions are unknown without it, or the
            id column is missing or repeats values.
    """
    rows, packing = cast(Dataset, trainer.train_dataset), packing_of(trainer)
    if raw is None:
        positions = row_positions(trainer, rows)
        if positions is None:
            raise ValueError(
                f"`pool` must be the dataset that was given to the trainer, got None: {type(trainer).__name__} "
                "prepares rows in its own way (`_prepare_dataset`), and where they came from cannot be told."
            )
    elif packing is None:
        positions = match_rows(trainer, raw, rows)
    else:
        rows, positions = _prepare_numbered(trainer, raw, truncate=False)
        _check_packs(cast(SFTTrainer, trainer), packing, rows, positions)
    ids, lengths = _row_ids(rows, positions, id_column), token_counts(rows)
    fingerprint = hash_rows(served_columns(trainer, rows))
    return Pool(rows, positions, ids, lengths, fingerprint, raw, id_column)


def token_counts(rows: Dataset) -> Tensor:
    """Tokens of each row, read through Arrow, (n,)."""
    if "input_ids" not in rows.column_names:
        return torch.zeros(len(rows), dtype=torch.int64)
    tables: Any = rows.select_columns("input_ids").with_format("arrow").iter(ARROW_ROWS)
    counts = [chunk.value_lengths().to_numpy() for table in tables for chunk in table["input_ids"].chunks]
    return torch.cat([torch.from_numpy(count.astype("int64")) for count in counts])


def _row_ids(rows: Dataset, positions: Tensor, id_column: str | None) -> pa.Array:
    if id_column is None:
        return pa.array(positions.numpy())
    check_id_column(rows, id_column, of="training set")
    table: Any = rows.select_columns(id_column).with_format("arrow")[:]
    return table[id_column].combine_chunks()


# --- Rows: `raw` against the trainer's -------------------------------------------------------------------------------


def match_rows(trainer: Trainer, raw: Dataset, rows: Dataset) -> Tensor:
    """Where each of the trainer's rows stands in `raw`, (n,).

    If the trainer's rows still carry every column of `raw`, these are compared. Else all of `raw` is prepared again
    and must come out as the trainer has it. If the trainer does not prepare rows, the columns they share are compared.

    Raises:
        ValueError: If a row differs, or the shared columns do not tell one row from another.
    """
    positions = row_positions(trainer, rows)
    if prepares_rows(trainer):
        if positions is not None and _carries_columns(trainer, raw, rows):
            return positions
        prepared, numbers = _prepare_numbered(trainer, raw, truncate=True)
    else:
        prepared, numbers = raw, torch.arange(len(raw))
    shared = sorted(set(prepared.column_names) & set(rows.column_names))
    if positions is None:
        return _match_by_content(prepared, numbers, rows, shared)
    order = positions.argsort()
    trained = rows if bool((order.diff() > 0).all()) else rows.select(order.tolist())
    if not torch.equal(numbers, positions[order]) or hash_rows(prepared, shared) != hash_rows(trained, shared):
        hashes = dict(zip(numbers.tolist(), row_hashes(prepared, shared), strict=True))
        expected = dict(zip(positions[order].tolist(), row_hashes(trained, shared), strict=True))
        unequal = [row for row in {*hashes, *expected} if hashes.get(row) != expected.get(row)]
        if unequal or len(prepared) != len(rows):  # else they differ in the width of their numbers
            raise ValueError(DIFFERS.format(min(unequal, default=len(prepared))))
    has_content = "input_ids" in shared or set(raw.column_names) <= set(shared)
    if not has_content and len(set(row_hashes(prepared, shared) if shared else ())) < len(prepared):
        raise ValueError(
            f"`pool` must share with the training set a column that tells rows apart, got {shared}: keep one through "
            "your own preparation, such as an id."
        )
    return positions


def _carries_columns(trainer: Trainer, raw: Dataset, rows: Dataset) -> bool:
    """Whether TRL's rows hold all of `raw`, column by column, in its order: then no row needs tokenizing again.

    TRL keeps the columns that it reads; to a text or a completion it adds the end-of-sequence token.
    """
    args, tokenizer = cast(SFTConfig, trainer.args), cast(PreTrainedTokenizerBase, trainer.processing_class)
    if args.max_length is None:
        table_rows = rows.select(trl_order(trainer, len(rows)).argsort().tolist())
    else:  # the table holds the dropped rows, too
        table_rows = Dataset(rows.data, rows.info)
    if len(table_rows) != len(raw) or not set(raw.column_names) <= set(table_rows.column_names):
        return False
    chunks: Any = (
        each.select_columns(raw.column_names).with_format("arrow").iter(ARROW_ROWS) for each in (raw, table_rows)
    )
    for raw_chunk, trained_chunk in zip(*chunks, strict=True):
        for name in raw.column_names:
            column, trained = raw_chunk[name], trained_chunk[name]
            if trained.equals(column):
                continue
            if not pa.types.is_string(column.type) or name not in (args.dataset_text_field, "completion"):
                return False
            suffix = compute.if_else(compute.ends_with(column, tokenizer.eos_token), "", tokenizer.eos_token)
            if not trained.equals(compute.binary_join_element_wise(column, suffix, "")):
                return False
    return True


def _match_by_content(prepared: Dataset, numbers: Tensor, rows: Dataset, shared: list[str]) -> Tensor:
    """The position of the row of equal content, (n,); of several, the next unused one.

    Raises:
        ValueError: If a row has none, or one stays unused.
    """
    unused: dict[str, deque[int]] = {}
    for number, digest in zip(numbers.tolist(), row_hashes(prepared, shared), strict=True):
        unused.setdefault(digest, deque()).append(number)
    positions = [queue.popleft() if (queue := unused.get(digest)) else -1 for digest in row_hashes(rows, shared)]
    if -1 in positions or len(positions) < len(prepared):
        raise ValueError(
            DIFFERS.format(min((row for queue in unused.values() for row in queue), default=len(prepared)))
        )
    return torch.tensor(positions)


def _prepare_numbered(trainer: Trainer, raw: Dataset, *, truncate: bool) -> tuple[Dataset, Tensor]:
    """Prepare `raw` with each row's number in a column: the prepared rows and their numbers, ascending, (n,).

    Raises:
        ValueError: If the trainer's own preparation drops the number.
    """
    column = "gip_row"
    while column in raw.column_names:
        column += "_"
    numbered = raw.add_column(column, list(range(len(raw))))
    prepared = prepare(trainer, numbered, "gip pool", truncate=truncate, hidden_column=column)
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


# --- Packs: prepared rows against the trainer's packs ----------------------------------------------------------------


def _check_packs(trainer: SFTTrainer, packing: Packing, rows: Dataset, positions: Tensor) -> None:
    """Raise unless prepared rows are packed to the very packs that the trainer has.

    Raises:
        ValueError: With the first row that differs, or that the order does.
    """
    packs, rows = cast(Dataset, trainer.train_dataset), rows.select_columns(PACKED_COLUMNS)
    with no_progress_bars():
        if hash_rows(pack_as_trained(trainer, rows), PACKED_COLUMNS) == hash_rows(packs, PACKED_COLUMNS):
            return
    if packing.keeps_boundaries:
        row = _first_row_not_in_packs(packing, rows, packs)
    else:
        row = _first_row_off_stream(trainer, rows, packs)
    if row is None:
        raise ValueError(
            "`pool` must be the dataset that was given to the trainer, in the same order, got the same rows in "
            "another order: pass the same dataset."
        )
    raise ValueError(DIFFERS.format(int(positions[row]) if row < len(rows) else len(rows)))


def _first_row_not_in_packs(packing: Packing, rows: Dataset, packs: Dataset) -> int | None:
    """The first row with a segment in no pack, the number of rows if packs hold more, None if all fits."""
    segments = Counter(digest for pack in packs for digest in _segments(pack, cast(Any, pack)["seq_lengths"]))
    for number, row in enumerate(cast(Any, rows)):
        size, step = len(row["input_ids"]), packing.length
        sizes = [min(step, size - start) for start in range(0, size, step)]
        for digest in _segments(row, sizes[:1] if packing.strategy == "bfd" else sizes):
            if not segments[digest]:
                return number
            segments[digest] -= 1
    return len(rows) if segments.total() else None


def _segments(row: Mapping[str, Any] | Any, sizes: list[int]) -> Iterator[str]:
    """A digest of each segment of a row or pack, segments of these sizes one after the other."""
    start = 0
    for size in sizes:
        yield hash_token_rows([{name: row[name][start : start + size] for name in PACKED_COLUMNS}])
        start += size


def _first_row_off_stream(trainer: SFTTrainer, rows: Dataset, packs: Dataset) -> int:
    """The row where the tokens of wrapped packs, one after the other, first differ from those of the rows."""
    order = trl_order(trainer, len(rows))
    rows = rows.select(order.tolist())
    packs = packs.select(trl_order(trainer, len(packs)).argsort().tolist())
    row_stream, pack_stream = ([_flatten(each, name) for name in PACKED_COLUMNS] for each in (rows, packs))
    size = min(len(row_stream[0]), len(pack_stream[0]))
    unequal = [a[:size] != b[:size] for a, b in zip(row_stream, pack_stream, strict=True)]
    differences = torch.stack(unequal).any(dim=0).nonzero()
    first = int(differences[0]) if len(differences) else size
    ends = token_counts(rows).cumsum(0)
    number = int(torch.searchsorted(ends, first, right=True))
    return int(order[number]) if number < len(order) else len(order)


def _flatten(rows: Dataset, column: str) -> Tensor:
    """The numbers of a column of lists, one after the other."""
    tables: Any = rows.select_columns(column).with_format("arrow").iter(ARROW_ROWS)
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for table in tables for chunk in table[column].chunks]
    return torch.cat([torch.from_numpy(chunk.astype("int64")) for chunk in chunks])
