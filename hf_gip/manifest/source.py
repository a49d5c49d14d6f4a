"""The pool in the manifest: what pins it, taken from the record of the selection."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from hf_gip.hashing import hash_lines, row_hashes
from hf_gip.manifest.schema import Origin, Source


def source_of(record: Mapping[str, Any], pool: Dataset | None, origins: Sequence[Origin] | None = None) -> Source:
    """The source part of the manifest; a pool without files or repository is hashed whole, once (7 µs a row).

    Args:
        record: Of the selection.
        pool: The rows that were chosen from, where they are at hand.
        origins: Those of the record with what the Hub says of them, where it was asked.

    Returns:
        What the manifest says of the source.
    """
    described = {name: value for name, value in record["source"].items() if name in Source.model_fields}
    if described["kind"] == "rows" and pool is not None:
        described["rows_sha256"] = hash_lines(row_hashes(pool, pool.column_names))
    source = Source.model_validate(described)
    return source if origins is None else source.model_copy(update={"origins": list(origins)})
