"""Paths that users give, and disks that are full or closed: one sentence each."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
CACHE = "free space there or point HF_DATASETS_CACHE to another disk; what is finished is kept"


def check_path(name: str, path: Any, what: str) -> None:
    """Raise unless `path` names something.

    Raises:
        TypeError: If it is neither a non-empty string nor a path.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise TypeError(f"`{name}` must be {what}, got {repr(path) if path in (None, '') else type(path).__name__}.")


@contextmanager
def written(where: str | os.PathLike[str], advice: str) -> Iterator[None]:
    """Writing to `where` within: a disk that is full, read-only or closed to this user is said in one sentence.

    Args:
        where: The file or folder.
        advice: What to do, as the end of the sentence.

    Raises:
        OSError: In place of the disk's own; other errors pass.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise OSError(f"cannot write {os.fspath(where)!r} ({os.strerror(error.errno)}): {advice}.") from error
