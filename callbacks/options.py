"""Options that contradict each other or the rows, said before training starts."""

import re
from collections.abc import Sequence
from typing import Any

import pyarrow.compute
from datasets import Dataset

from hf_gip.core.validation import TOO_LARGE, as_list, brief
from hf_gip.features.encoders import name_encoder
from hf_gip.selection import Selection

arrow: Any = pyarrow.compute  # whose functions are made at run time


def check_options(
    scores: Sequence[str], rows: Dataset, select: object, every_n_epochs: int, start_epoch: int, warmup: object
) -> None:
    """Raise for options that contradict each other.

    Raises:
        TypeError: If `scores` is no list of names, `select` no function or `warmup` no selection.
        ValueError: If one is out of range.
    """
    if not isinstance(warmup, Selection | None):
        raise TypeError(
            f"`warmup` must be a `Selection`, got {type(warmup).__name__}: a subset has it as `.selection`."
        )
    _check_names(scores)
    if select is not None and not callable(select):
        raise TypeError(f"`select` must be a function or None, got {brief(select)}.")
    for name, value, least in (("every_n_epochs", every_n_epochs, 1), ("start_epoch", start_epoch, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < TOO_LARGE:
            raise ValueError(f"`{name}` must be a whole number, at least {least}, got {brief(value)}.")
    if scores and select is not None:
        raise ValueError(
            "`scores` must be left out with `select`, which takes GIP's place and with it the scores: use them inside "
            "your function."
        )
    numeric = [name for name, kind in rows.features.items() if re.match("u?int|float", getattr(kind, "dtype", ""))]
    empty = [name for name in scores if name in numeric and not _has_number(rows, name)]
    if empty:
        raise ValueError(f"`scores` must rate at least one row each, got no number in {empty}: leave those out.")
    wrong = [name for name in scores if name != "loss" and name not in numeric]
    if wrong:
        raise ValueError(f'`scores` must be numeric columns of the pool or "loss", got {wrong}: it has {numeric}.')


def _check_names(scores: Sequence[str]) -> None:
    if isinstance(scores, str):
        raise TypeError(f"`scores` must be a list of column names, got {scores!r}: write `scores=[{scores!r}]`.")
    if wrong := [name for name in as_list("scores", scores, "a list of column names") if not isinstance(name, str)]:
        raise TypeError(f"`scores` must be a list of column names, got {brief(wrong[0])} in it.")


def _has_number(rows: Dataset, name: str) -> bool:
    tables: Any = rows.select_columns(name).with_format("arrow").iter(10_000)
    return any(arrow.any(arrow.is_finite(table[name])).as_py() for table in tables)


def check_no_transform(name: str, dataset: Dataset) -> None:
    """Raise if `dataset` shows its rows through a function: only what is stored is trained on and published.

    Raises:
        ValueError: If `with_transform` or `set_transform` was called on it.
    """
    if dataset.format["type"] == "custom":
        raise ValueError(
            f"`{name}` must hold the rows that it shows, got a dataset with a transform (`with_transform` or "
            "`set_transform`): apply the function with `map`, or drop it with `with_format(None)`."
        )


def check_pool(rows: object, raw: object, *, packed: bool) -> None:
    """Raise unless the trainer's rows can be reached by position, and those of `pool` where it packs.

    Raises:
        TypeError: If one of the two is no dataset.
        ValueError: If one shows its rows through a function, there are none, or packing hides them.
    """
    if not isinstance(rows, Dataset):
        raise TypeError(
            f"`trainer.train_dataset` must be a `datasets.Dataset`, got {type(rows).__name__}: rows are chosen by "
            "position, so load or materialize the dataset first (`Dataset.from_generator`)."
        )
    check_no_transform("trainer.train_dataset", rows)
    if not isinstance(raw, Dataset | None):
        raise TypeError(f"`pool` must be a `datasets.Dataset`, got {type(raw).__name__}.")
    if raw is not None:
        check_no_transform("pool", raw)
    elif packed:
        raise ValueError(
            "`pool` must be the dataset that was given to the trainer, got None: with `packing=True` the trainer "
            "keeps packs, and rows cannot be told from them."
        )
    if not len(rows):
        raise ValueError(
            "`trainer.train_dataset` must hold at least one row with a labelled token within `max_length`, got none: "
            "raise `max_length` or check the masks."
        )


def check_encoder(encoder: object, features: object) -> None:
    """Raise unless `encoder` can be had and is asked for.

    Raises:
        ValueError: If other features than texts are read, or there is no such encoder.
    """
    if features == "text":
        name_encoder(encoder)  # type: ignore[arg-type] — refuses what is none
    elif encoder != "lexical":
        raise ValueError(
            f'`encoder` embeds texts, got {brief(encoder)} with `features={features!r}`: add `features="text"`.'
        )


def check_start(start_epoch: int, epochs: int) -> None:
    """Raise unless a run of so many epochs comes to the first selection.

    Raises:
        ValueError: If it ends before.
    """
    if start_epoch >= epochs:
        raise ValueError(
            f"`start_epoch` must be one of the run's {epochs} epoch(s), counted from 0, got {start_epoch}: no "
            "selection would be made."
        )


def check_push(push_to: str | None, push_each: bool, pool: Dataset | None) -> None:
    """Raise unless the rows to publish are at hand and there is a name to publish them under.

    Raises:
        ValueError: If not.
    """
    if push_to is None:
        if push_each:
            raise ValueError("`push_each` needs the repository to push to, got `push_to=None`: name one.")
        return
    if not isinstance(push_to, str) or not re.fullmatch(r"[\w.\-]+/[\w.\-]+", push_to):
        raise ValueError(f"`push_to` must be a dataset repository such as 'me/subset', got {brief(push_to)}.")
    if pool is None:
        raise ValueError(
            "`push_to` publishes rows as they were given to the trainer, got `pool=None`: pass that dataset."
        )


def check_target(target: object) -> None:
    """Raise unless `target` is rows or texts.

    Raises:
        TypeError: If it is neither.
        ValueError: If it is empty.
    """
    texts = isinstance(target, list | tuple) and all(isinstance(text, str) for text in target)
    if not (texts or isinstance(target, Dataset)):
        raise TypeError(f"`target` must be a `datasets.Dataset` or a list of texts, got {type(target).__name__}.")
    if len(target) == 0:  # type: ignore[arg-type]
        raise ValueError("`target` must hold at least one row, got none.")
    if isinstance(target, Dataset):
        check_no_transform("target", target)


def check_no_gaps(target: Dataset, names: Sequence[str]) -> None:
    """Raise unless every row of `target` has a value in each of these columns, which `SFTTrainer` takes for granted.

    Raises:
        ValueError: With the first that has none.
    """
    for name in names:
        start = 0
        tables: Any = target.select_columns(name).with_format("arrow").iter(10_000)
        for table in tables:
            place = arrow.index(table[name].is_null(), True).as_py()
            if place >= 0:
                raise ValueError(
                    f"`target` must have a value in every row, got None in row {start + place} of column {name!r}: "
                    "leave such rows out."
                )
            start += len(table)
