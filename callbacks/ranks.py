"""One answer for all processes."""

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

T = TypeVar("T")


def on_main(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Do `work` on the main process and return its result on every process.

    An error is raised on all of them: a process left waiting for the others would hang the job.

    Raises:
        RuntimeError: On the other processes, with the main process's message, when `work` failed.
    """
    if accelerator.num_processes == 1:
        return work()
    box: list[Any] = [None, None]
    failure: Exception | None = None
    if accelerator.is_main_process:
        try:
            box[0] = work()
        except Exception as error:
            failure, box[1] = error, f"{type(error).__name__}: {error}"
    broadcast_object_list(box)
    if failure is not None:
        raise failure
    if box[1] is not None:
        raise RuntimeError(f"The main process failed with {box[1]}")
    return box[0]
