"""`gip/selection.parquet`: one line per pick."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from hf_gip.selection import Selection

SCHEMA = pa.schema(
    [
        ("rank", pa.int64()),
        ("index", pa.int64()),
        ("row_id", pa.string()),
        ("gain", pa.float64()),
        ("row_sha256", pa.string()),
        ("weight", pa.float64()),
        ("epoch", pa.int64()),
    ]
)
WRITER: dict[str, Any] = {"compression": "zstd", "version": "2.6", "write_statistics": True}
MAX_ROWS = 1 << 31
NO_NULLS = ("rank", "index", "row_id", "gain", "row_sha256")


def selection_table(selection: "Selection", row_ids: pa.Array, hashes: pa.Array) -> pa.Table:
    """Rank, position, name, gain, row hash, weight and epoch of each pick, then the selection's own curves."""
    k = len(selection)
    weights = None if selection.weights is None else selection.weights.double().numpy()
    columns = [
        pa.array(np.arange(k)),
        pa.array(selection.indices.numpy()),
        row_ids,
        pa.array(selection.gains.double().numpy()),
        hashes,
        pa.nulls(k, pa.float64()) if weights is None else pa.array(weights),
        pa.nulls(k, pa.int64()),
    ]
    table = pa.Table.from_arrays(columns, schema=SCHEMA)
    for name, curve in sorted(selection.curves.items()):
        table = table.append_column(name, pa.array(curve.double().numpy()))
    return table


def write_selection(table: pa.Table, path: Path) -> None:
    """The same table gives the same bytes."""
    pq.write_table(table, path, **WRITER)


def read_selection(path: Path) -> pa.Table:
    """An untrusted selection file, its columns and values checked.

    Raises:
        ValueError: If it is not readable, has other columns, is too long, or misses a value.
    """
    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows > MAX_ROWS:
                raise ValueError(f"{file.metadata.num_rows} rows, at most {MAX_ROWS} are read")
            found = file.schema_arrow
            if found.names[: len(SCHEMA)] != SCHEMA.names or found.types[: len(SCHEMA)] != SCHEMA.types:
                raise ValueError(f"columns {found.names}, expected {SCHEMA.names}")
            if wrong := [field.name for field in list(found)[len(SCHEMA) :] if field.type != pa.float64()]:
                raise ValueError(f"extra column {wrong[0]!r} is no curve of float64")
            table = file.read()
            table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"the selection file {path.name!r} cannot be read: {reason}.") from None
    if gaps := [name for name in NO_NULLS if table[name].null_count]:
        raise ValueError(f"the selection file {path.name!r} has missing values in {gaps[0]!r}.")
    return table
