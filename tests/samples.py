"""Sampled problems with what breaks selectors built in: duplicates, zero rows, ties, odd scales, k above d."""

import torch
from torch import Tensor


def rows(
    n: int, d: int, *, seed: int = 0, rank: int | None = None, duplicates: int = 0, zeros: int = 0, scale: float = 1.0
) -> Tensor:
    """(n, d) float64 rows with a decaying spectrum; the first ones are copied and blanked over the last ones."""
    draw = torch.Generator().manual_seed(seed)
    rank = rank or d
    mix = torch.randn(rank, d, generator=draw, dtype=torch.float64) / torch.arange(1, rank + 1)[:, None] ** 0.5
    X = torch.randn(n, rank, generator=draw, dtype=torch.float64) @ mix
    if duplicates:
        X[-duplicates:] = X[:duplicates]
    if zeros:
        X[n // 2 : n // 2 + zeros] = 0
    return X * scale


def queries(m: int, d: int, *, seed: int = 1, scale: float = 1.0) -> Tensor:
    """(m, d) float64 queries, some directions asked for more than others."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(m, d, generator=draw, dtype=torch.float64) * torch.linspace(0.2, 2, d) * scale


def normal_rows(n: int, d: int, seed: int, clusters: int = 0) -> Tensor:
    """Rows without structure, or around a few centers."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, d, generator=generator, dtype=torch.float64)
    if clusters:
        centers = torch.randn(clusters, d, generator=generator, dtype=torch.float64)
        rows = centers[torch.randint(clusters, (n,), generator=generator)] + 0.4 * rows
    return rows
