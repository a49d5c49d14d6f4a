"""Give `datasets` its method: `Dataset.gip_select`, once, and never over somebody else's attribute."""

import warnings

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from hf_gip.dataset.gip_select import gip_select

CLASSES = (Dataset, DatasetDict, IterableDataset, IterableDatasetDict)  # the iterable ones get a helpful TypeError


def register() -> None:
    """Add the method `gip_select` to the dataset classes; does nothing the second time.

    A class that already has another attribute of that name keeps it, with a warning: `hf_gip.gip_select(dataset, …)`
    is the same function.
    """
    for kind in CLASSES:
        found = getattr(kind, "gip_select", None)
        if found is None:
            setattr(kind, "gip_select", gip_select)  # noqa: B010 — type checkers cannot know a method added at run time
        elif found is not gip_select:
            warnings.warn(
                f"`datasets.{kind.__name__}` already has another `gip_select`, which hf_gip leaves in place: call "
                "`hf_gip.gip_select(dataset, …)` instead.",
                stacklevel=2,
            )


def unregister() -> None:
    """Take the method away again where it is ours."""
    for kind in CLASSES:
        if kind.__dict__.get("gip_select") is gip_select:
            delattr(kind, "gip_select")
