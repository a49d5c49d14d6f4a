"""What the three selections of a dataset do alike."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from datasets import Dataset, DatasetDict, is_caching_enabled

from hf_gip.dataset.columns import check_column
from hf_gip.hashing import content_fingerprint, hash_columns, hash_json

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from hf_gip.selection import Selection


def check_dataset(dataset: Any, k: Any, id_column: str | None = None, *, name: str = "dataset") -> None:
    """Raise unless `dataset` is a map-style dataset, called `name` in errors, from which `k` rows can be taken.

    Raises:
        TypeError: If it is an iterable dataset or something else.
        ValueError: If it is empty or shown through a transform, `k` does not fit, or `id_column` is unknown or not
            unique.
    """
    from hf_gip.core.validation import brief, check_k
    from hf_gip.features.text import check_rows

    advice = (
        ": selection needs the whole pool; use `load_dataset(…)` without `streaming=True`, or "
        "`Dataset.from_generator` over `.take(n)`"
    )
    check_rows(name, dataset, advice)
    if isinstance(k, Mapping):
        raise ValueError(f"`k` must be a whole number for a single split, got {brief(dict(k))}.")
    check_k(k, len(dataset))
    if id_column is not None:
        check_id_column(dataset, id_column)


def select_once(request: Mapping[str, Any], select: "Callable[[], Selection]", *, shared: bool = False) -> "Selection":
    """The cached selection for this request, or a fresh one, kept for the next call.

    The request is plain JSON and holds every option and a digest of the content of everything that is read.

    Where ranks work together on it (`shared`), a selection that one of them has cached serves all: one that began
    anew would wait for the others for ever.
    """
    from hf_gip.dataset.cache import load_selection, store_selection

    key = hash_json(request)
    selection = cached = load_selection(key) if is_caching_enabled() else None
    if shared:
        from hf_gip.distributed import first_available, world_group

        selection = first_available(cached, world_group())
    if selection is None:
        selection = select()
    if cached is None and is_caching_enabled():
        store_selection(key, selection)
    return selection


def attach(dataset: Dataset, selection: "Selection") -> Dataset:
    """The chosen rows in pick order, with `selection` on the result and a fingerprint of their content.

    The source is described anew: a cached record may stem from the same rows opened in another way.
    """
    from hf_gip.dataset.loading import describe_source

    source = describe_source(dataset, id_column=selection.record["source"]["id_column"])
    subset = dataset.select(selection.indices.numpy())
    subset._fingerprint = content_fingerprint(subset)
    record = {**selection.record, "source": source, "column_hashes": hash_columns(subset)}
    selection = replace(selection, record=record)
    setattr(subset, "selection", selection)  # noqa: B010 — attributes of this instance, read by the manifest's writer
    setattr(subset, "selected_from", dataset)  # noqa: B010 — hashed whole when it was made in memory
    return subset


def environment(dataset: Dataset, id_column: str | None) -> dict[str, Any]:
    """Where the rows came from and which libraries looked at them, as plain JSON."""
    from hf_gip.dataset.loading import describe_source

    return {
        "source": describe_source(dataset, id_column=id_column),
        "versions": {name: version(name) for name in ("hf-gip", "torch", "datasets")},
    }


def splits(dataset: DatasetDict, k: int | Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    """Which splits are asked for, and how many rows of each.

    Raises:
        ValueError: If a split does not exist, or none is named.
    """
    from hf_gip.core.validation import brief

    sizes = k if isinstance(k, Mapping) else {"train": k}
    unknown = [name for name in sizes if name not in dataset]
    if unknown or not sizes:
        problem = brief(unknown[0]) if unknown else "none"
        raise ValueError(
            f"`k` must name splits of the dataset {list(dataset)}, got {problem}: give a mapping such as "
            f"{{{next(iter(dataset), 'train')!r}: 1000}}."
        )
    return list(sizes.items())


def check_id_column(dataset: Dataset, name: str, *, of: str = "dataset") -> None:
    """Raise unless the column names every row once; `of` is what `dataset` is called in errors.

    Raises:
        ValueError: If there is no such column, or its values are nested or repeated.
    """
    check_column("id_column", name, dataset, of=of)
    values = dataset.select_columns([name]).with_format(None)[name][:]
    if nested := [value for value in values if isinstance(value, list | dict)]:
        raise ValueError(
            f"`id_column` must hold texts or numbers, got {type(nested[0]).__name__} values in {name!r}: leave it out "
            "to use positions."
        )
    if len(set(values)) < len(values):
        raise ValueError(
            f"`id_column` must name each row once, got {len(values) - len(set(values))} repeated values in {name!r}: "
            "leave it out to use positions."
        )


def check_pool_row(row: int, dataset: Dataset) -> None:
    """Raise unless `row` is a position in the pool.

    Raises:
        ValueError: If it is not.
    """
    if isinstance(row, bool) or not 0 <= row < len(dataset):
        raise ValueError(f"`row` must be a row of the pool, 0 to {len(dataset) - 1}, got {row!r}.")


def report_picks(dataset: Dataset, selection: "Selection", path: "str | PathLike[str]") -> "Path":
    """Write the page about `selection` from the pool and the record alone."""
    from hf_gip.dataset.report import write_report

    subset = dataset.select(selection.indices.numpy())
    setattr(subset, "selection", replace(selection, context=None))  # noqa: B010 — an attribute of this instance
    return write_report(subset, path)
