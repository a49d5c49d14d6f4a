"""Seeded random projections that need no memory: the same numbers on every device, rank and version of torch."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

GOLDEN = -7046029254386353131  # 2⁶⁴/φ and the two mixers of splitmix64, as signed integers
MIX = (-4658895280553007687, -7723592293110705685)


def random_bits(counter: Int64[Tensor, " c"], seed: int, stream: int) -> Int64[Tensor, " c"]:
    """64 pseudo-random bits for every counter (splitmix64, a hash of its counter, so any slice can be had alone)."""
    key = (seed * 0x9E3779B1 + stream * 0x85EBCA77 + 1) & ((1 << 62) - 1)
    bits = (counter + key) * GOLDEN
    bits = (bits ^ ((bits >> 30) & ((1 << 34) - 1))) * MIX[0]  # the mask makes the shift a logical one
    bits = (bits ^ ((bits >> 27) & ((1 << 37) - 1))) * MIX[1]
    return bits ^ ((bits >> 31) & ((1 << 33) - 1))


def signs(start: int, count: int, seed: int, stream: int, device: torch.device) -> Tensor:
    """Signs of the coordinates `start` … `start + count`, int8 of ±1, (count,)."""
    first, last = start // 64, (start + count + 63) // 64
    words = random_bits(torch.arange(first, last, device=device), seed, stream)
    bits = (words[:, None] >> torch.arange(64, device=device)) & 1
    return bits.to(torch.int8).mul_(2).sub_(1).flatten()[start - 64 * first :][:count]


def add_sketch(
    out: Float[Tensor, "b d"], values: Float[Tensor, "b p"], start: int, seed: int, stream: int, flips: Tensor
) -> None:
    """Add the sketch of coordinates `start` … `start + p` of a long vector to `out`, in place.

    Coordinate i keeps its value, times a random sign `flips[i]` (of `signs`), and lands on (i + shift) mod d with one
    random shift per stretch of d coordinates. As in a count sketch two coordinates collide with probability at most
    1/d, so E⟨Sx, Sy⟩ = ⟨x, y⟩ with variance at most (‖x‖²‖y‖² + ⟨x, y⟩²)/d; unlike one it reads and writes in order.

    Args:
        out: What the sketches of all parts add up in.
        values: One row per example.
        start: Position of the first value within its stream.
        seed: Which projection.
        stream: Which part of the whole vector `values` belongs to, e.g. the number of its layer.
        flips: `signs(start, p, seed, stream, device)`, which the caller may keep.
    """
    d = out.shape[1]
    end = start + values.shape[1]
    wide = out.new_zeros(len(out), 2 * d)  # the second half is what wraps round
    stretches = range(start // d, (end + d - 1) // d)
    numbers = torch.arange(stretches.start, stretches.stop)  # on the CPU: the shifts steer slices
    shifts = ((random_bits(numbers, seed, ~stream) >> 1) & ((1 << 62) - 1)) % d
    for stretch, shift in zip(stretches, shifts.tolist(), strict=True):
        low, high = max(start, stretch * d), min(end, (stretch + 1) * d)
        column = (low - stretch * d + shift) % d
        flip = flips[low - start : high - start].to(values.dtype)
        wide[:, column : column + high - low].addcmul_(values[:, low - start : high - start], flip)
    out += wide[:, :d] + wide[:, d:]


@torch.no_grad()
def sketch(values: Float[Tensor, "b p"], d: int, *, seed: int = 0, stream: int = 0) -> Float[Tensor, "b d"]:
    """Project rows to `d` dimensions, inner products kept in expectation: one call of `add_sketch`.

    Args:
        values: One row per example, (b, p).
        d: Width of the projection.
        seed: Which projection.
        stream: Which part of a longer vector this is; streams add up.

    Returns:
        The sketches, (b, d). Time O(b p), memory O(b (p + d)).
    """
    out = values.new_zeros(len(values), d)
    add_sketch(out, values, 0, seed, stream, signs(0, values.shape[1], seed, stream, values.device))
    return out


def rademacher(rows: int, d: int, *, seed: int, stream: int, like: Tensor) -> Float[Tensor, "r d"]:
    """Random signs over √d, (rows, d), in the dtype and on the device of `like`: x @ it keeps inner products."""
    return signs(0, rows * d, seed, stream, like.device).view(rows, d).to(like.dtype) / d**0.5
