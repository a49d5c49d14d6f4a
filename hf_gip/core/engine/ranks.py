"""The processes that share the rows, and what they tell one another: once per block, not per pick."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Int64, Shaped
from torch import Tensor

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Ranks:
    """Who holds which rows: numbered through in rank order; alone where `group` is None.

    Attributes:
        counts: How many rows each rank holds.
        rank: Which of them this is.
        group: The processes.
    """

    counts: tuple[int, ...]
    rank: int = 0
    group: dist.ProcessGroup | None = None

    @property
    def n(self) -> int:
        """Rows of all ranks."""
        return sum(self.counts)

    @property
    def first(self) -> int:
        """Number of the first row held here."""
        return sum(self.counts[: self.rank])

    def mine(self, numbers: Int64[Tensor, " p"]) -> Int64[Tensor, " q"]:
        """Positions here of those of the rows `numbers` that are held here."""
        if self.group is None:
            return numbers
        return numbers[(numbers >= self.first) & (numbers < self.first + self.counts[self.rank])] - self.first

    def total(self, summand: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """The sum over ranks, in place."""
        if self.group is not None:
            dist.all_reduce(summand, group=self.group)
        return summand

    def gather(self, rows: Shaped[Tensor, "p w"], size: int) -> Shaped[Tensor, "q w"]:
        """The rows of all ranks, one below the other, where each hands in `size` rows or as many as it holds."""
        if self.group is None:
            return rows
        height = min(size, max(self.counts))
        mine = rows.new_zeros(height, rows.shape[1])
        mine[: len(rows)] = rows
        parts = [torch.empty_like(mine) for _ in self.counts]
        dist.all_gather(parts, mine, group=self.group)
        return torch.cat([part[: min(size, count)] for part, count in zip(parts, self.counts, strict=True)])

    def told(self, make: Callable[[], Value]) -> Value:
        """What the first rank makes of it, on every rank; the others do nothing."""
        if self.group is None:
            return make()
        box: list[Any] = [make() if self.rank == 0 else None]
        dist.broadcast_object_list(box, dist.get_global_rank(self.group, 0), group=self.group)
        return box[0]

    def least(self, count: Int64[Tensor, ""], picks: Int64[Tensor, " b"]) -> Int64[Tensor, ""]:
        """The smallest count.

        Raises:
            RuntimeError: If ranks drafted different picks, which computers unlike each other may do.
        """
        if self.group is None:
            return count
        mark = (picks * torch.arange(1, len(picks) + 1, device=picks.device)).sum()
        told = torch.stack([count, mark, -mark])
        dist.all_reduce(told, op=dist.ReduceOp.MIN, group=self.group)
        if int(told[1]) != -int(told[2]):
            raise RuntimeError(
                f"ranks must draft the same picks, got checksums from {int(told[1])} to {-int(told[2])}: "
                "run all of them with one torch version on devices of one kind."
            )
        return told[0]


def shared(here: int, group: dist.ProcessGroup | None) -> Ranks:
    """Ranks of `group`, of which this one holds `here` rows."""
    if group is None:
        return Ranks((here,))
    return Ranks(tuple(everywhere(here, group)), dist.get_rank(group), group)


def everywhere(value: Value, group: dist.ProcessGroup) -> list[Value]:
    """The value of every rank."""
    out: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(out, value, group=group)
    return out


def agree(told: Mapping[str, object], group: dist.ProcessGroup | None) -> None:
    """Raise on every rank unless all tell the same.

    Raises:
        ValueError: If not; the message holds both values.
    """
    if group is None:
        return
    first, *others = everywhere(dict(told), group)
    for rank, other in enumerate(others, 1):
        for name, value in first.items():
            if other[name] != value:
                raise ValueError(
                    f"`{name}` must be the same on every rank, got {value!r} on rank 0 and {other[name]!r} on "
                    f"rank {rank}: start all ranks with the same arguments."
                )


def admit(problem: str | None, group: dist.ProcessGroup | None) -> None:
    """Raise on every rank if one has a problem.

    Raises:
        ValueError: With the first rank's problem.
    """
    for rank, found in enumerate([problem] if group is None else everywhere(problem, group)):
        if found is not None:
            raise ValueError(found if group is None else f"rank {rank}: {found}")


def fingerprint(values: Shaped[Tensor, "..."] | None) -> object:
    """Shape, type and a sum over the bits, equal on all ranks for equal tensors."""
    if values is None:
        return None
    size = {8: torch.int64, 4: torch.int32, 2: torch.int16}[values.element_size()]
    bits = values.detach().contiguous().view(size).long().flatten()
    place = torch.arange(1, len(bits) + 1, device=bits.device)
    return tuple(values.shape), str(values.dtype), int((bits * place).sum())
