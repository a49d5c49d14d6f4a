"""What options name: datasets, vectors, lists."""

from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset

if TYPE_CHECKING:
    import numpy as np


def names(listed: str | None) -> list[str] | None:
    """`"a,b"` as a list."""
    return None if listed is None else [name.strip() for name in listed.split(",") if name.strip()]


def vectors(path: str) -> "np.ndarray":
    """A matrix saved by `numpy.save`, read in place.

    Raises:
        ValueError: If the file cannot be read.
    """
    import numpy as np

    if not Path(path).is_file():
        raise ValueError(f"no file {path!r}: check the path.")
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)  # "c": torch wants writable pages
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {Path(path).name!r} as a matrix: {error}") from None


def open_target(name: str, *, split: str, config: str | None) -> "Dataset | np.ndarray":
    """A target by name: a `.npy` matrix, or anything `open_dataset` reads."""
    from hf_gip.dataset.open import open_dataset

    return vectors(name) if name.endswith(".npy") else open_dataset(name, split=split, config=config)
