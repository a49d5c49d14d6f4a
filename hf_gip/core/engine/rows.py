"""Rows in pieces small enough to stay in the cache."""

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from hf_gip.core.rows import Rows


def pieces(rows: Rows, size: int) -> Iterator[tuple[slice, Float[Tensor, "c d"]]]:
    """The chunks of `rows`, cut to at most `size` rows each, with the rows' numbers."""
    for first, chunk in rows.chunks():
        for start in range(0, len(chunk), size):
            piece = chunk[start : start + size]
            yield slice(first + start, first + start + len(piece)), piece
