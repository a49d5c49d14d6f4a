"""Whole files or none: writes beside the file and a rename, disk errors in one sentence."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
CACHE = "free space there or point HF_DATASETS_CACHE to another disk; what is finished is kept"


def check_path(name: str, path: Any, what: str) -> None:
    """Raise unless `path` names something.

    Raises:
        TypeError: If it is neither a non-empty string nor a path.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise TypeError(f"`{name}` must be {what}, got {repr(path) if path in (None, '') else type(path).__name__}.")


def write_whole(path: str | os.PathLike[str], text: str, advice: str) -> None:
    """Write a file, its folders too where they are missing: it is whole, or as it was.

    Args:
        path: The file.
        text: What it shall hold.
        advice: What to do where the disk is full or closed, as the end of the sentence.
    """
    aside = Path(path).with_name(f".{Path(path).name}.part")
    try:
        with written(path, advice):
            aside.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(text, encoding="utf-8")
            os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


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


def write_aside(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None) -> None:
    """Write a safetensors file so that it appears whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with written(path, CACHE):
            _save(tensors, aside, metadata)
            with aside.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None) -> None:
    """`save_file`, whose errors of the disk are those of the system.

    Raises:
        OSError: If the disk cannot be written.
        SafetensorError: If the tensors cannot.
    """
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        if (code := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
