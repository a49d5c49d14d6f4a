"""Where a dataset came from."""

from typing import Any

from datasets import Dataset


def describe_source(dataset: Dataset, *, id_column: str | None = None) -> dict[str, Any]:
    """What is known of the rows' origin, as plain JSON."""
    return {
        "num_rows": len(dataset),
        "columns": dataset.column_names,
        "fingerprint": dataset._fingerprint,
        "id_column": id_column,
        "split": str(dataset.split) if dataset.split is not None else None,
    }
