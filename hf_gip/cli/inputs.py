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


def open_target(name: str | None, *, split: str | None, config: str | None) -> "Dataset | np.ndarray | None":
    """A target by name: a `.npy` matrix, or a split, by default train, of anything `open_dataset` reads."""
    return _open("target", name, split=split, config=config)


def open_target_rows(name: str | None, *, split: str | None, config: str | None) -> "Dataset | None":
    """A target of rows by name, where vectors do not do.

    Raises:
        ValueError: If it is a `.npy` matrix.
    """
    if name is not None and name.endswith(".npy"):
        raise ValueError(
            f"`target` must be a dataset or a file of rows, whose gradients are taken, got the matrix {name!r}: give "
            "the rows."
        )
    rows = _open("target", name, split=split, config=config)
    return rows if isinstance(rows, Dataset) else None


def open_excluded(name: str | None, *, split: str | None, config: str | None) -> "Dataset | np.ndarray | None":
    """What to stay away from, likewise: by default the test split, where there are splits."""
    return _open("exclude", name, split=split, config=config)


def _open(argument: str, name: str | None, *, split: str | None, config: str | None) -> "Dataset | np.ndarray | None":
    """What `argument` names; None where it is left out.

    Raises:
        ValueError: If a split or configuration is named of nothing, or of a matrix.
    """
    from hf_gip.dataset.open import has_splits, open_dataset

    matrix = name is not None and name.endswith(".npy")
    if name is None or matrix:
        why = f"a matrix such as {Path(name).name!r} has none" if name else f"it goes with `{argument}`, got none"
        for option, value in (("split", split), ("config", config)):
            if value is not None:
                raise ValueError(f"`{argument}_{option}` must be left out, got {value!r}: {why}.")
        return None if name is None else vectors(name)
    split = split or ("test" if argument == "exclude" and has_splits(name) else "train")
    return open_dataset(name, split=split, config=config, prefix=f"{argument}_")


def check_counts(**options: int | None) -> None:
    """Raise unless every option that was given is a whole number of at least 1.

    Raises:
        ValueError: If one is not.
    """
    from hf_gip.core.validation import check_int

    for name, value in options.items():
        if value is not None:
            check_int(name, value)
