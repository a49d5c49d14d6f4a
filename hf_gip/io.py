"""Files and folders that appear whole or not at all, and errors of the disk in one sentence."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
CACHE_ADVICE = "free space there or point HF_DATASETS_CACHE to another disk; what is finished is kept"


def check_path(name: str, path: Any, expected: str) -> None:
    """Raise unless `path` names something.

    Raises:
        TypeError: If it is neither a non-empty string nor a path.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise TypeError(
            f"`{name}` must be {expected}, got {repr(path) if path in (None, '') else type(path).__name__}."
        )


def first_line(error: BaseException) -> str:
    """What an error says first, or its kind if it says nothing: some libraries go on for a page."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def friendly_disk_errors(path: str | os.PathLike[str], advice: str = CACHE_ADVICE) -> Iterator[None]:
    """Say in one sentence that the disk below `path` is full, read-only or closed to this user; other errors pass.

    Args:
        path: The file or folder that is written within.
        advice: What to do, as the end of the sentence.

    Raises:
        OSError: In place of the disk's own.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise OSError(f"cannot write {os.fspath(path)!r} ({os.strerror(error.errno)}): {advice}.") from error


@contextmanager
def atomic_file(path: str | os.PathLike[str], advice: str = CACHE_ADVICE) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place at the end; missing folders are made.

    The file is whole, or as it was before, also after a kill.

    Args:
        path: The file.
        advice: What to do where the disk is full or closed, as the end of the sentence.
    """
    part = Path(path).with_name(f".{Path(path).name}.{os.getpid()}.part")
    try:
        with friendly_disk_errors(path, advice):
            part.parent.mkdir(parents=True, exist_ok=True)
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
    finally:
        with suppress(OSError):  # renamed, or never begun
            part.unlink()


@contextmanager
def atomic_folder(path: Path, advice: str) -> Iterator[Path]:
    """A folder beside `path`, new or empty, which takes its place when all went well, and vanishes when not.

    Args:
        path: The folder.
        advice: What to do where the disk is full or closed, as the end of the sentence.
    """
    with friendly_disk_errors(path, advice):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        try:
            yield part
            umask = os.umask(0)  # can only be read by setting it
            os.umask(umask)
            part.chmod(0o777 & ~umask)
            if path.is_dir():
                path.rmdir()
            part.rename(path)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def write_text_atomically(path: str | os.PathLike[str], text: str, advice: str = CACHE_ADVICE) -> None:
    """Write a text file, and its folders where they are missing."""
    with atomic_file(path, advice) as part:
        part.write_text(text, encoding="utf-8")


def save_safetensors_atomically(
    path: Path, tensors: "Mapping[str, Tensor]", metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file into the cache, and its folders where they are missing.

    Raises:
        OSError: If the disk cannot be written: the library has an error of its own for it.
        SafetensorError: If the tensors cannot.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_file(path) as part:
        try:
            save_file(dict(tensors), part, metadata)
        except SafetensorError as error:
            if (code := re.search(r"os error (\d+)", str(error))) is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(part)) from error
