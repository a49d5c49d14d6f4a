"""What options name: datasets, vectors, lists."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from datasets import Dataset

if TYPE_CHECKING:
    import numpy as np

Number = TypeVar("Number", int, float)


def names(listed: str | None) -> list[str] | None:
    """`"a,b"` as a list."""
    return None if listed is None else [name.strip() for name in listed.split(",") if name.strip()]


def weighed(listed: str | None) -> list[str] | dict[str, float] | None:
    """`"a,b"` as a list, `"a=2,b"` as weights (1 where none is given).

    Raises:
        ValueError: If a weight is no number.
    """
    found = names(listed)
    if found is None or not any("=" in name for name in found):
        return found
    return {name: _number(weight or "1", float) for name, _, weight in (entry.partition("=") for entry in found)}


def quotas(listed: str | None) -> int | dict[str, int] | None:
    """`"50"` as one number for all groups, `"forum=50,wiki=20"` as one by group.

    Raises:
        ValueError: If a quota is no whole number.
    """
    found = names(listed)
    if found is None or (len(found) == 1 and "=" not in found[0]):
        return None if found is None else _number(found[0], int)
    return {name: _number(count, int) for name, _, count in (entry.rpartition("=") for entry in found)}


def numbers(listed: str | None) -> list[float] | None:
    """`"1e-5,5e-6"` as numbers.

    Raises:
        ValueError: If one is no number.
    """
    found = names(listed)
    try:
        return None if found is None else [float(rate) for rate in found]
    except ValueError:
        raise ValueError(f"`rates` must be numbers such as 1e-5,5e-6, got {listed!r}.") from None


def _number(text: str, kind: Callable[[str], Number]) -> Number:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"weights and quotas must be numbers such as 50 or forum=50,wiki=20, got {text!r}.") from None


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
    except Exception as error:  # numpy's header parser raises many kinds
        raise ValueError(f"cannot read {Path(path).name!r} as a matrix: {error}") from None


def open_target(name: str, *, split: str, config: str | None, option: str = "target_split") -> "Dataset | np.ndarray":
    """A target by name: a `.npy` matrix, or anything `open_dataset` reads; `option` names its split's in messages."""
    from hf_gip.dataset.open import open_dataset

    return vectors(name) if name.endswith(".npy") else open_dataset(name, split=split, config=config, option=option)


def open_target_rows(name: str, *, split: str, config: str | None) -> "Dataset":
    """A target of rows by name, where vectors do not do.

    Raises:
        ValueError: If it is a `.npy` matrix.
    """
    from hf_gip.dataset.open import open_dataset

    if name.endswith(".npy"):
        raise ValueError(
            f"`target` must be a dataset or a file of rows, whose gradients are taken, got the matrix {name!r}: give "
            "the rows."
        )
    return open_dataset(name, split=split, config=config, option="target_split")


def open_excluded(name: str, *, split: str | None, config: str | None) -> "Dataset | np.ndarray":
    """What to stay away from, likewise: the test split where there are splits and none is named."""
    from hf_gip.dataset.open import has_splits

    split = split or ("test" if has_splits(name) else "train")
    return open_target(name, split=split, config=config, option="exclude_split")
