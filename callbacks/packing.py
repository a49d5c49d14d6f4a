"""Packed rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import datasets
import numpy as np
import pyarrow as pa
import torch
from datasets.table import InMemoryTable
from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from torch import Tensor
from trl.data_utils import pack_dataset

GROUP = 1_000  # rows that TRL packs together: the batch of `Dataset.map`


@dataclass(frozen=True)
class Segments:
    """Packs as pieces of rows.

    Attributes:
        segments: (row, start, length) of each piece, pack after pack, (s, 3).
        bounds: Pack i holds the pieces bounds[i] to bounds[i + 1], (packs + 1,).
    """

    segments: Tensor
    bounds: Tensor

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def head(self, packs: int) -> "Segments":
        """The first `packs` packs."""
        return Segments(self.segments[: int(self.bounds[packs])], self.bounds[: packs + 1])

    def __add__(self, other: "Segments") -> "Segments":
        return Segments(
            torch.cat([self.segments, other.segments]),
            torch.cat([self.bounds, other.bounds[1:] + self.bounds[-1]]),
        )


NOTHING = Segments(torch.zeros(0, 3, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))


@dataclass(frozen=True)
class Packing:
    """How rows become packs.

    Attributes:
        length: Tokens in a pack at most.
        strategy: `bfd`, `bfd_split` or `wrapped`, as in `SFTConfig.packing_strategy`.
    """

    length: int
    strategy: Literal["bfd", "bfd_split", "wrapped"]

    @property
    def keeps_boundaries(self) -> bool:
        """Whether a pack says where its sequences begin."""
        return self.strategy != "wrapped"

    def fit(self, order: Tensor, lengths: Tensor, packs: int) -> Tensor | None:
        """Which rows of `order` make `packs` packs: the longest head that fits.

        Whole groups of 1,000 rows count as they come; inside the group that goes over, the longest head that still
        fits is found by bisection. Should that head leave packs open (a long row that is split opens several at once),
        later rows of the group that fit are let in after it.

        Args:
            order: Rows, best first.
            lengths: Tokens of every row of the pool, (n,).
            packs: How many packs to fill.

        Returns:
            Places in `order`, ascending, or None where all of it fills fewer packs.
        """
        done, filled = 0, 0
        while filled < packs:
            group = order[done : done + GROUP]
            if not len(group):
                return None
            more = len(self._group(group, lengths))
            if filled + more > packs:
                return torch.cat([torch.arange(done), done + self._squeeze_in(group, lengths, packs - filled)])
            done, filled = done + len(group), filled + more
        return torch.arange(done)

    def plan(self, rows: Tensor, lengths: Tensor, packs: int) -> Segments:
        """Exactly these rows in `packs` packs; what stays open repeats the first packs."""
        plan = NOTHING
        for group in rows.split(GROUP):
            plan = plan + self._group(group, lengths)
        while 0 < len(plan) < packs:
            plan = plan + plan.head(min(len(plan), packs - len(plan)))
        return plan

    def _squeeze_in(self, group: Tensor, lengths: Tensor, gap: int) -> Tensor:
        """Places in a group that is too long for `gap` packs: its longest head, then whatever still fits."""

        def packs(places: Tensor) -> int:
            return len(self._group(group[places], lengths))

        places = torch.arange(len(group))
        fits, over = 0, len(group)
        while over - fits > 1:
            middle = (fits + over) // 2
            fits, over = (middle, over) if packs(places[:middle]) <= gap else (fits, middle)
        taken = places[:fits]
        left = gap - packs(taken)
        full = lengths[group] // self.length if self.strategy == "bfd_split" else torch.zeros(len(group))
        for place in places[fits + 1 :].split(1):
            if left == 0:
                break
            if full[place] > left:
                continue
            wider = torch.cat([taken, place])
            over = packs(wider) - gap
            taken, left = (wider, -over) if over <= 0 else (taken, left)
        return taken

    def _group(self, rows: Tensor, lengths: Tensor) -> Segments:
        """What TRL packs of one group."""
        ends = np.cumsum(lengths[rows].numpy())
        if not len(ends) or not ends[-1]:
            return NOTHING
        packed = self._pack(ends)
        address = packed.flatten().to_numpy(zero_copy_only=False)
        breaks = np.cumsum(packed.value_lengths().to_numpy(zero_copy_only=False))
        row = np.searchsorted(ends, address, side="right")  # which row each token comes from
        fresh = np.ones(len(address), dtype=bool)  # tokens that begin a piece
        fresh[1:] = (np.diff(address) != 1) | (np.diff(row) != 0)
        fresh[breaks[:-1]] = True
        begin = np.flatnonzero(fresh)
        source = row[begin]
        start = address[begin] - np.concatenate([[0], ends])[source]
        size = np.diff(np.append(begin, len(address)))
        segments = np.stack([rows.numpy()[source], start, size], axis=1)
        bounds = np.searchsorted(begin, np.concatenate([[0], breaks]))
        return Segments(torch.from_numpy(segments), torch.from_numpy(bounds))

    def _pack(self, ends: np.ndarray) -> pa.LargeListArray:
        """`pack_dataset` over rows that hold the addresses of their tokens, row i those before `ends[i]`."""
        offsets = pa.array(np.concatenate([[0], ends]), pa.int64())
        addresses = pa.LargeListArray.from_arrays(offsets, pa.array(np.arange(ends[-1]), pa.int64()))
        rows = datasets.Dataset(InMemoryTable(pa.table({"address": addresses})))
        with no_bars():
            packed = pack_dataset(
                rows, self.length, self.strategy, {"keep_in_memory": True, "batch_size": max(GROUP, len(ends))}
            )
        return packed.with_format("arrow")[:]["address"].combine_chunks()


def piece_count(lengths: Tensor, size: int) -> int:
    """Pieces of at most `size` tokens that rows of these lengths come to."""
    return int(((lengths + size - 1) // size).sum())


@contextmanager
def no_bars() -> Iterator[None]:
    """Hide the bars of `Dataset.map`: packing asks for it a dozen times."""
    hidden = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            enable_progress_bars()
