"""Rows in pieces small enough to stay in the cache, and where their numbers can be asked for."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from hf_gip.core.rows import Rows


def pieces(rows: Rows, size: int) -> Iterator[tuple[slice, Float[Tensor, "c d"]]]:
    """The chunks of `rows`, cut to at most `size` rows each, with the rows' numbers."""
    for first, chunk in rows.chunks():
        for start in range(0, len(chunk), size):
            piece = chunk[start : start + size]
            yield slice(first + start, first + start + len(piece)), piece


def ready(tensor: Tensor) -> bool:
    """Whether its values can be asked for at no cost: on the CPU. A GPU would have to be waited for."""
    return tensor.device.type == "cpu"


def wide(columns: Float[Tensor, "b d"], dtype: torch.dtype) -> Float[Tensor, "d w"]:
    """The columns as `times` wants them for rows of a type: three parts of each for half precision, w = 3b.

    A GPU multiplies half-precision rows as they are. The columns, which such a type would spoil, go in three parts
    that together hold all their bits, still in one product.
    """
    if dtype.itemsize > 2:
        return columns.T.to(dtype)
    step = torch.finfo(dtype).eps / 2
    parts, left = [], columns.double()
    for _ in range(3):
        parts.append(left.to(dtype))
        left = (left - parts[-1]) / step
    return torch.cat(parts).T


def times(rows: Float[Tensor, "c d"], columns: Float[Tensor, "d w"], out: Float[Tensor, "c b"]) -> Tensor:
    """The product of rows and `wide` columns in `out`, as exact as its type."""
    if rows.dtype.itemsize > 2:
        return torch.mm(rows, columns, out=out)
    step = torch.finfo(rows.dtype).eps / 2
    product = torch.mm(rows, columns, out_dtype=torch.float32) if rows.is_cuda else rows.float() @ columns.float()
    high, middle, low = product.view(len(rows), 3, out.shape[1]).unbind(1)
    return torch.add(high, middle, alpha=step, out=out).add_(low, alpha=step * step)
