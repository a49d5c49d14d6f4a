"""What the data loader reads: a fixed number of items whose contents may change between epochs.

`transformers` builds its loader once and fixes the number of steps and the learning-rate schedule from its length
before the first epoch, so a selection may change *which* rows are served and never *how many*. The choice lives in
shared memory: worker processes see a new one at their next read, persistent workers included.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import Trainer

from hf_gip.core.validation import check_int, check_k

from .packing import Packing, segment_count
from .pool import Pool
from .serving import ServingLog
from .trainer_access import packing_of, served_columns

READ_ITEMS = 1_000  # that are Python values at a time when all of them are read


class SelectionView(Dataset[dict[str, Any]]):
    """`k` rows of `pool`.

    Args:
        pool: The prepared rows, only the columns that the collator reads.
        k: How many are served; fixed from here on.
    """

    def __init__(self, pool: datasets.Dataset, k: int) -> None:
        self.pool = pool
        self.rows = torch.arange(k).share_memory_()
        self.log = ServingLog(k)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.pool[int(self.rows[index])]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        items = self._read(self.rows[list(indices)])
        self.log.record(indices, items)
        return items

    def show(self, rows: Tensor) -> None:
        """Serve exactly these rows from now on."""
        self.rows.copy_(rows)
        self.log.expect(item for part in rows.split(READ_ITEMS) for item in self._read(part))

    def ranking_length(self, rows: Tensor) -> int:
        """How many of `rows` a ranking must hold for `fit`."""
        return len(self)

    def fit(self, order: Tensor) -> Tensor | None:
        """Which of the ranked rows are served, as indices into `order`; None if they are too few."""
        return torch.arange(len(self)) if len(order) >= len(self) else None

    def _read(self, rows: Tensor) -> list[dict[str, Any]]:
        columns = self.pool[rows.tolist()]
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


class PackedView(Dataset[dict[str, Any]]):
    """`packs` packs of rows of `pool`, packed again for every selection.

    A pack is a list of segments (row, start, length); its tokens are read from `pool` when asked for. The memory is
    three numbers a segment, in shared memory, whatever the length of the rows.

    Args:
        pool: The prepared rows, not truncated, only list columns of equal length (`input_ids`, `labels`).
        lengths: Tokens of each row, (n,).
        packs: How many packs an epoch has; fixed from here on.
        packing: Length of a pack and TRL's packing strategy.
    """

    def __init__(self, pool: datasets.Dataset, lengths: Tensor, packs: int, packing: Packing) -> None:
        self.pool = pool
        self.lengths = lengths
        self.packing = packing
        self.log = ServingLog(packs)
        segments = min(2 * segment_count(lengths, packing.length) + packs, packs * packing.length)
        self._segments = torch.zeros(segments, 3, dtype=torch.int64).share_memory_()
        self._bounds = torch.zeros(packs + 1, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._read([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        items = self._read(indices)
        self.log.record(indices, items)
        return items

    def show(self, rows: Tensor) -> None:
        """Serve exactly these rows, packed, from now on."""
        plan = self.packing.plan(rows, self.lengths, len(self))
        self._segments[: len(plan.segments)] = plan.segments
        self._bounds.copy_(plan.bounds)
        parts = torch.arange(len(self)).split(READ_ITEMS)
        self.log.expect(item for part in parts for item in self._read(part.tolist()))

    def ranking_length(self, rows: Tensor) -> int:
        """How many of `rows` a ranking is likely to need: a tenth more than their mean length suggests."""
        mean = self.lengths[rows].clamp(max=self.packing.length).double().mean().clamp(min=1)
        return int(1.1 * len(self) * self.packing.length / float(mean)) + 1

    def fit(self, order: Tensor) -> Tensor | None:
        """Which of the ranked rows fill the packs, as indices into `order`; None if all of them fill too few."""
        return self.packing.fit(order, self.lengths, len(self))

    def _read(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        packs = [self._segments[self._bounds[i] : self._bounds[i + 1]].tolist() for i in indices]
        rows = sorted({row for pack in packs for row, _, _ in pack})
        columns = self.pool[rows]
        offset = {row: number for number, row in enumerate(rows)}
        return [self._join(pack, columns, offset) for pack in packs]

    def _join(self, pack: list[list[int]], columns: dict[str, list[Any]], offset: dict[int, int]) -> dict[str, Any]:
        item = {
            name: [token for row, start, size in pack for token in values[offset[row]][start : start + size]]
            for name, values in columns.items()
        }
        if self.packing.keeps_boundaries:
            item["seq_lengths"] = [size for _, _, size in pack]
        return item


def make_view(trainer: Trainer, pool: Pool, k: int) -> SelectionView | PackedView:
    """The view of `k` rows, or of `k` packs if the trainer packs.

    Raises:
        ValueError: If the pool has fewer.
    """
    rows = served_columns(trainer, pool.rows)
    packing = packing_of(trainer)
    if packing is None:
        check_k(k, len(pool))
        return SelectionView(rows, k)
    check_int("k", k)
    view = PackedView(rows.select_columns(["input_ids", "labels"]), pool.lengths, k, packing)
    if view.fit(torch.arange(len(pool))) is None:
        raise ValueError(f"`k` must be a number of packs that the pool fills, got {k}: lower it or `max_length`.")
    return view
