"""SPICE straight from its definition, in float64 numpy, one determinant or one loop at a time."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def in_units(G: Array) -> Array:
    """The gradients over their root mean square length: what α without a scale is a weight of."""
    return G / np.sqrt((G**2).sum(axis=1).mean())


def log_det(G: Array, rows: list[int], alpha: float) -> float:
    """log det(I + α Σ gᵢgᵢᵀ) over `rows`."""
    chosen = G[rows]
    small = chosen @ chosen.T if len(rows) < G.shape[1] else chosen.T @ chosen  # the same determinant (Sylvester)
    return float(np.linalg.slogdet(np.eye(len(small)) + alpha * small)[1])


def conflict(G: Array, row: int, rows: list[int]) -> float:
    """max(0, −cos(g_row, mean of the chosen)), 0 for the first."""
    if not rows:
        return 0.0
    mean = G[rows].mean(axis=0)
    return max(0.0, -float(G[row] @ mean) / float(np.linalg.norm(G[row]) * np.linalg.norm(mean) + 1e-8))


def gain(G: Array, row: int, rows: list[int], alpha: float, fisher: str) -> float:
    """What `row` adds: a difference of two log-determinants, or the diagonal's formula."""
    if fisher == "full":
        return log_det(G, [*rows, row], alpha) - log_det(G, rows, alpha)
    power = 4 if fisher == "diagonal_g4" else 2
    denominator = 1 + alpha * (G[rows] ** power).sum(axis=0)
    return float(np.log(1 + alpha * (G[row] ** 2 / denominator).sum()))


def score(G: Array, row: int, rows: list[int], penalty: float, fisher: str, alpha: float = 1.0) -> float:
    """The paper's score: gain less `penalty` times conflict."""
    return gain(G, row, rows, alpha, fisher) - penalty * conflict(G, row, rows)


def greedy_spice(
    G: Array,
    k: int | None,
    alpha: float = 0.01,
    penalty: float = 0.1,
    stop_ratio: float | None = None,
    fisher: str = "full",
    absolute: bool = False,
) -> tuple[list[int], list[float], list[float]]:
    """The paper's loop: every gain of every row from scratch at every pick; without a `k` until the gains fall."""
    G = G if absolute else in_units(G)
    k = len(G) if k is None else k
    rows: list[int] = []
    gains: list[float] = []
    conflicts: list[float] = []
    while len(rows) < k:
        remaining = [i for i in range(len(G)) if i not in rows]
        scored = [(gain(G, i, rows, alpha, fisher), conflict(G, i, rows)) for i in remaining]
        best = int(np.argmax([delta - penalty * clash for delta, clash in scored]))
        delta, clash = scored[best]
        if stop_ratio is not None and rows and delta <= stop_ratio * gains[0]:
            break
        rows.append(remaining[best])
        gains.append(delta)
        conflicts.append(clash)
    return rows, gains, conflicts


def windowed_spice(G: Array, k: int | None, window: int, **options) -> list[int]:
    """A share of every window of consecutive rows; without a `k` what each one's gains let pass."""
    chosen: list[int] = []
    for start in range(0, len(G), window):
        end = min(start + window, len(G))
        share = None if k is None else end * k // len(G) - start * k // len(G)
        chosen += [start + i for i in greedy_spice(G[start:end], share, **options)[0]]
    return chosen
