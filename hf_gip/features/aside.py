"""Tensors written so that a file under its own name is whole."""

import os
import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from hf_gip.disk import CACHE, written


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
