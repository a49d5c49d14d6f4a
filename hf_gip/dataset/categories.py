"""Categorical columns as signals: every value is asked for, beside what the vectors are asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from torch import Tensor

from hf_gip.core.validation import brief, is_number
from hf_gip.dataset.columns import read_categories
from hf_gip.dataset.requests import described, plain_value

MOST = 1_000  # values of a column to be covered: each is a coordinate more


@dataclass(frozen=True, slots=True)
class Categories:
    """The columns to cover.

    Attributes:
        weights: Column → weight.
        codes: For each column the number of each row's value, −1 where missing, (n,).
        names: `column=value` of every value, in order.
    """

    weights: dict[str, float]
    codes: list[Tensor]
    names: list[str]

    @property
    def recipe(self) -> dict[str, Any]:
        """The same as plain JSON."""
        missing = {name: int((code < 0).sum()) for name, code in zip(self.weights, self.codes, strict=True)}
        return {"columns": self.weights, "missing": missing, "values": len(self.names)}


def read_cover(dataset: Dataset, cover: Sequence[str] | Mapping[str, float]) -> Categories:
    """The columns named in `cover`, with their weights.

    Raises:
        TypeError: If `cover` is a string or empty.
        ValueError: If a column is unknown, of another kind, constant or has too many values, or a weight is
            not above 0.
    """
    weights = column_weights("cover", cover, "['source']")
    codes, names = [], []
    for name in weights:
        code, values = read_categories(dataset, name, argument="cover")
        if not 2 <= len(values) <= MOST:
            raise ValueError(f"`cover` column {name!r} must have 2 to {MOST} values, got {len(values)}: leave it out.")
        codes.append(code)
        names += [f"{name}={value}" for value in values]
    return Categories(weights, codes, names)


def column_weights(argument: str, given: Sequence[str] | Mapping[str, float], sample: str) -> dict[str, float]:
    """Columns with their weights, 1 each where only names are given.

    Raises:
        TypeError: If it is a string, empty, or something else.
        ValueError: If a weight is not above 0.
    """
    if not isinstance(given, Sequence | Mapping) or isinstance(given, str | bytes) or not given:
        values = hasattr(given, "__len__") and not isinstance(given, str | bytes) and given is not None
        advice = ": put values into a column with `dataset.add_column` and name it" if values else ""
        raise TypeError(
            f"`{argument}` must be a list of column names such as {sample}, got {described(given)}{advice}."
        )
    if wrong := [name for name in given if not isinstance(name, str)]:
        raise TypeError(f"`{argument}` must be a list of column names such as {sample}, got {brief(wrong[0])} in it.")
    weights = dict.fromkeys(given, 1.0)
    if isinstance(given, Mapping):
        weights = {name: plain_value(weight) for name, weight in given.items()}
    for name, weight in weights.items():
        if not is_number(weight) or weight <= 0:
            raise ValueError(f"`{argument}` weights must be above 0 and finite, got {brief(weight)} for {name!r}.")
    return {name: float(weight) for name, weight in weights.items()}
