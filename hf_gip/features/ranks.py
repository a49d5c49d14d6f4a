"""What the processes of one run tell each other: who they are, one answer for all, an error that ends every one."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

from torch import distributed

T = TypeVar("T")


def rank_and_world() -> tuple[int, int]:
    """This process among its peers.

    Raises:
        RuntimeError: If a launcher started several and they have no process group.
    """
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RuntimeError(
            f"a process group must exist where {os.environ['WORLD_SIZE']} processes share the work, got none: "
            "create `accelerate.PartialState()` first."
        )
    return 0, 1


def gathered(value: T) -> list[T]:
    """Every rank's value, in the order of the ranks, on every rank."""
    world = rank_and_world()[1]
    if world == 1:
        return [value]
    values: list[Any] = [None] * world
    distributed.all_gather_object(values, value)
    return values


def first_found(value: T | None) -> T | None:
    """The value of the lowest rank that has one, on every rank; None where no rank has.

    So ranks whose folders differ, after a kill or on several machines, still go the same way.
    """
    has = gathered(value is not None)
    if len(has) == 1 or not any(has):
        return value
    one = [value]
    distributed.broadcast_object_list(one, src=has.index(True))
    return one[0]


def together(work: Callable[[], T]) -> T:
    """Do `work` on every rank and wait for all; where it fails on one, all raise, and none waits for what is gone.

    Raises:
        Exception: This rank's own error.
        ValueError: Another rank's.
        RuntimeError: Another rank's, of another kind.
    """
    mine: Exception | None = None
    result: T | None = None
    try:
        result = work()
    except Exception as error:  # told to the others first
        mine = error
    told = gathered(None if mine is None else (isinstance(mine, ValueError), type(mine).__name__, str(mine)))
    if mine is not None:
        raise mine
    for rank, each in enumerate(told):
        if each is not None:
            plain, kind, message = each
            raise ValueError(message) if plain else RuntimeError(f"rank {rank} failed, {kind}: {message}")
    return result  # type: ignore[return-value] — set where nothing was raised
