"""Packing as `trl` packs: which rows fill a number of packs, and which piece of which row lies where."""

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
    """Packs as segments of rows.

    Attributes:
        segments: (row, start, length) of each segment, pack after pack, (s, 3).
        bounds: Pack i holds the segments bounds[i] to bounds[i + 1], (packs + 1,).
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


NO_SEGMENTS = Segments(torch.zeros(0, 3, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))


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
            Indices into `order`, ascending, or None if all of it fills fewer packs.
        """
        done, filled = 0, 0
        while filled < packs:
            group = order[done : done + GROUP]
            if not len(group):
                return None
            group_packs = len(self._group(group, lengths))
            if filled + group_packs > packs:
                return torch.cat([torch.arange(done), done + self._fill(group, lengths, packs - filled)])
            done, filled = done + len(group), filled + group_packs
        return torch.arange(done)

    def plan(self, rows: Tensor, lengths: Tensor, packs: int) -> Segments:
        """Exactly these rows in `packs` packs; what stays open repeats the first packs."""
        plan = NO_SEGMENTS
        for group in rows.split(GROUP):
            plan = plan + self._group(group, lengths)
        while 0 < len(plan) < packs:
            plan = plan + plan.head(min(len(plan), packs - len(plan)))
        return plan

    def _fill(self, group: Tensor, lengths: Tensor, packs: int) -> Tensor:
        """Indices into a group that is too long for `packs` packs: its longest head, then whatever still fits."""

        def count_packs(indices: Tensor) -> int:
            return len(self._group(group[indices], lengths))

        indices = torch.arange(len(group))
        fits, exceeds = 0, len(group)
        while exceeds - fits > 1:
            middle = (fits + exceeds) // 2
            if count_packs(indices[:middle]) <= packs:
                fits = middle
            else:
                exceeds = middle
        chosen = indices[:fits]
        free = packs - count_packs(chosen)
        full_packs = lengths[group] // self.length if self.strategy == "bfd_split" else torch.zeros(len(group))
        for index in indices[fits + 1 :].split(1):
            if free == 0:
                break
            if full_packs[index] > free:
                continue
            extended = torch.cat([chosen, index])
            free_after = packs - count_packs(extended)
            if free_after >= 0:
                chosen, free = extended, free_after
        return chosen

    def _group(self, rows: Tensor, lengths: Tensor) -> Segments:
        """What TRL packs of one group."""
        ends = np.cumsum(lengths[rows].numpy())
        if not len(ends) or not ends[-1]:
            return NO_SEGMENTS
        packed = self._pack(ends)
        address = packed.flatten().to_numpy(zero_copy_only=False)
        breaks = np.cumsum(packed.value_lengths().to_numpy(zero_copy_only=False))
        row = np.searchsorted(ends, address, side="right")  # which row each token comes from
        begins = np.ones(len(address), dtype=bool)  # tokens that begin a segment
        begins[1:] = (np.diff(address) != 1) | (np.diff(row) != 0)
        begins[breaks[:-1]] = True
        first = np.flatnonzero(begins)
        source = row[first]
        start = address[first] - np.concatenate([[0], ends])[source]
        size = np.diff(np.append(first, len(address)))
        segments = np.stack([rows.numpy()[source], start, size], axis=1)
        bounds = np.searchsorted(first, np.concatenate([[0], breaks]))
        return Segments(torch.from_numpy(segments), torch.from_numpy(bounds))

    def _pack(self, ends: np.ndarray) -> pa.LargeListArray:
        """`pack_dataset` over rows that hold the addresses of their tokens, row i those before `ends[i]`."""
        offsets = pa.array(np.concatenate([[0], ends]), pa.int64())
        addresses = pa.LargeListArray.from_arrays(offsets, pa.array(np.arange(ends[-1]), pa.int64()))
        rows = datasets.Dataset(InMemoryTable(pa.table({"address": addresses})))
        with no_progress_bars():
            packed = pack_dataset(
                rows, self.length, self.strategy, {"keep_in_memory": True, "batch_size": max(GROUP, len(ends))}
            )
        return packed.with_format("arrow")[:]["address"].combine_chunks()


def segment_count(lengths: Tensor, size: int) -> int:
    """How many segments of at most `size` tokens rows of these lengths come to."""
    return int(((lengths + size - 1) // size).sum())


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Hide the bars of `Dataset.map`: packing asks for it a dozen times."""
    was_disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not was_disabled:
            enable_progress_bars()
