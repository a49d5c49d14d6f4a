"""What the processes of one run share: who holds which rows, one answer for all, an error that ends every one.

Every function takes the process `group`; None means this process alone. Jobs as a whole pass `world_group()`.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Int64, Shaped
from torch import Tensor

Value = TypeVar("Value")
LONGEST_WAIT = timedelta(days=1)  # for ranks that still embed; one that ends is noticed at once


def rank_and_world() -> tuple[int, int]:
    """This process among its peers, (rank, world size).

    Raises:
        RuntimeError: If a launcher started several and they have no process group.
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RuntimeError(
            f"a process group must exist where {os.environ['WORLD_SIZE']} processes share the work, got none: "
            "create `accelerate.PartialState()` first."
        )
    return 0, 1


def local_device() -> str:
    """The best device for this process: of several that a launcher started on one machine, each has its own GPU."""
    if not torch.cuda.is_available():
        return "cpu"
    local_rank = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID")
    return "cuda" if local_rank is None else f"cuda:{int(local_rank) % torch.cuda.device_count()}"


@contextmanager
def launched_group() -> Iterator[None]:
    """The process group of a program that a launcher started several times, and that makes none itself."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_device())
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=LONGEST_WAIT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def world_group() -> dist.ProcessGroup | None:
    """All processes of the launcher's job, or None where this one works alone."""
    return dist.group.WORLD if rank_and_world()[1] > 1 else None


def all_gather(value: Value, group: dist.ProcessGroup | None) -> list[Value]:
    """Every rank's value, in the order of the ranks, on every rank."""
    if group is None:
        return [value]
    values: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values


def first_available(value: Value | None, group: dist.ProcessGroup | None) -> Value | None:
    """The value of the lowest rank that has one, on every rank; None where no rank has.

    So ranks whose folders differ, after a kill or on several machines, still go the same way.
    """
    has_value = all_gather(value is not None, group)
    if group is None or not any(has_value):
        return value
    return _broadcast(value, has_value.index(True), group)


def run_on_all(work: Callable[[], Value], group: dist.ProcessGroup | None) -> Value:
    """Do `work` on every rank and wait for all; where it fails on one, all raise, and none waits for what is gone.

    Raises:
        Exception: This rank's own error.
        ValueError: Another rank's.
        RuntimeError: Another rank's, of another kind.
    """
    if group is None:
        return work()
    error: Exception | None = None
    result: Value | None = None
    try:
        result = work()
    except Exception as raised:  # the others learn of it first
        error = raised
    reports = all_gather(None if error is None else _report(error, dist.get_rank(group)), group)
    for report in [error, *reports]:
        if report is not None:
            raise report
    return result  # type: ignore[return-value] — set where nothing was raised


def run_on_main(work: Callable[[], Value], group: dist.ProcessGroup | None) -> Value:
    """What `work` returns on the first rank, on every rank; the others do nothing but wait. An error ends all.

    Raises:
        Exception: On the first rank, its own error; on the others as `run_on_all` says.
    """
    if group is None:
        return work()
    result = run_on_all(lambda: work() if dist.get_rank(group) == 0 else None, group)
    return _broadcast(result, 0, group)


def _broadcast(value: Any, rank: int, group: dist.ProcessGroup) -> Any:
    box = [value]
    dist.broadcast_object_list(box, dist.get_global_rank(group, rank), group=group)
    return box[0]


def _report(error: Exception, rank: int) -> Exception:
    """What the other ranks raise: a `ValueError` is as true there; only our own kinds are sure to survive the way."""
    if not isinstance(error, ValueError):
        return RuntimeError(f"rank {rank} failed, {type(error).__name__}: {error}")
    return error if type(error).__module__.startswith("hf_gip.") else ValueError(str(error))


def check_on_all(check: Callable[[], Value], group: dist.ProcessGroup | None) -> Value:
    """What `check` returns; if it refuses an argument on one rank, all raise that rank's message.

    Raises:
        TypeError: What `check` raises, without a group.
        ValueError: The first rank's message, behind `rank r:`.
    """
    if group is None:
        return check()
    result, problem = None, None
    try:
        result = check()
    except (TypeError, ValueError) as error:
        problem = str(error)
    for rank, message in enumerate(all_gather(problem, group)):
        if message is not None:
            raise ValueError(f"rank {rank}: {message}")
    return result  # type: ignore[return-value] — set where nothing was raised


def assert_equal_on_all(arguments: Mapping[str, object], group: dist.ProcessGroup | None) -> None:
    """Raise on every rank unless all ranks hold the same arguments.

    Raises:
        ValueError: If not; the message holds both values.
    """
    if group is None:
        return
    first, *rest = all_gather(dict(arguments), group)
    for rank, other in enumerate(rest, 1):
        for name, value in first.items():
            if other[name] != value:
                raise ValueError(
                    f"`{name}` must be the same on every rank, got {value!r} on rank 0 and {other[name]!r} on rank "
                    f"{rank}: start all ranks with the same arguments."
                )


def tensor_checksum(values: Shaped[Tensor, "..."] | None) -> object:
    """Shape, type and a sum over the bits: tells ranks that were handed unlike tensors, without sending them."""
    if values is None:
        return None
    integers = {8: torch.int64, 4: torch.int32, 2: torch.int16}[values.element_size()]
    bits = values.detach().contiguous().view(integers).long().flatten()
    weights = torch.arange(1, len(bits) + 1, device=bits.device)
    return tuple(values.shape), str(values.dtype), int((bits * weights).sum())


@dataclass(frozen=True, slots=True)
class RowPartition:
    """Which rank holds which rows: numbered through in rank order; all of them in one process where `group` is None.

    Attributes:
        counts: How many rows each rank holds.
        rank: This process's rank.
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
    def offset(self) -> int:
        """Number of this rank's first row among all."""
        return sum(self.counts[: self.rank])

    def local(self, numbers: Int64[Tensor, " p"]) -> Int64[Tensor, " q"]:
        """Positions on this rank of those of the rows `numbers` that it holds."""
        if self.group is None:
            return numbers
        return numbers[self.is_local(numbers)] - self.offset

    def is_local(self, numbers: Int64[Tensor, " p"]) -> Shaped[Tensor, " p"]:
        """Which of the rows `numbers` this rank holds."""
        return (numbers >= self.offset) & (numbers < self.offset + self.counts[self.rank])

    def all_reduce_sum(self, summand: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """The sum over ranks, in place."""
        if self.group is not None:
            dist.all_reduce(summand, group=self.group)
        return summand

    def gather_rows(self, rows: Shaped[Tensor, "p w"], size: int) -> Shaped[Tensor, "q w"]:
        """The rows of all ranks, one below the other, where each hands in `size` rows or as many as it holds."""
        if self.group is None:
            return rows
        height = min(size, max(self.counts))
        padded = rows.new_zeros(height, rows.shape[1])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in self.counts]
        dist.all_gather(parts, padded, group=self.group)
        return torch.cat([part[: min(size, count)] for part, count in zip(parts, self.counts, strict=True)])

    def broadcast_from_first(self, make: Callable[[], Value]) -> Value:
        """What the first rank makes of it, on every rank; the other ranks do nothing."""
        return run_on_main(make, self.group)

    def min_count(self, count: Int64[Tensor, ""], drafted: Int64[Tensor, " b"]) -> Int64[Tensor, ""]:
        """The smallest count of all ranks, which must have drafted the same rows.

        Raises:
            RuntimeError: If ranks drafted different rows, which computers unlike each other may do.
        """
        if self.group is None:
            return count
        checksum = (drafted * torch.arange(1, len(drafted) + 1, device=drafted.device)).sum()
        reduced = torch.stack([count, checksum, -checksum])
        dist.all_reduce(reduced, op=dist.ReduceOp.MIN, group=self.group)
        if int(reduced[1]) != -int(reduced[2]):
            raise RuntimeError(
                f"ranks must draft the same picks, got checksums from {int(reduced[1])} to {-int(reduced[2])}: "
                "run all of them with one torch version on devices of one kind."
            )
        return reduced[0]


def partition_rows(count: int, group: dist.ProcessGroup | None) -> RowPartition:
    """The rows of all ranks of `group`, of which this rank holds `count`."""
    if group is None:
        return RowPartition((count,))
    return RowPartition(tuple(all_gather(count, group)), dist.get_rank(group), group)
