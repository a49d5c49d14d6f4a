"""GTP and its baselines straight from their definitions, in float64 numpy, dense and one row at a time."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]


def fitted(A: Array, b: Array, rows: list[int]) -> tuple[Array, float]:
    """The non-negative weights that match `b` best with these rows, and ‖b − Aᵀw‖."""
    weights, residual = nnls(A[rows].T, b, maxiter=100 * len(b) + 1000)
    return weights, float(residual)


def written_out_pursuit(A: Array, b: Array, k: int, passes: int = 20) -> tuple[list[int], float]:
    """Compressive sampling as written in the paper's outline: 2k rows join, k stay, until the residual rises."""
    rows: list[int] = []
    weights, residual = np.zeros(0), float(np.linalg.norm(b))
    for _ in range(passes):
        scores = A @ (b - A[rows].T @ weights)
        joined = sorted({*rows, *np.argsort(-scores, kind="stable")[: 2 * k].tolist()})
        sizes = fitted(A, b, joined)[0] * np.linalg.norm(A[joined], axis=1)
        pruned = [joined[i] for i in np.argsort(-sizes, kind="stable")[:k] if sizes[i] > 0]
        if not pruned:
            break
        new, fall = fitted(A, b, pruned)
        if fall >= residual:
            break
        rows, weights, residual = pruned, new, fall
    return rows, residual


def omp(A: Array, b: Array, k: int) -> tuple[list[int], float]:
    """Orthogonal matching pursuit with non-negative weights: a fresh least squares for every pick."""
    rows: list[int] = []
    weights = np.zeros(0)
    for _ in range(k):
        scores = A @ (b - A[rows].T @ weights)
        scores[rows] = -np.inf
        if scores.max() <= 0:
            break
        rows.append(int(scores.argmax()))
        weights = fitted(A, b, rows)[0]
    return rows, fitted(A, b, rows)[1]


def top_k(A: Array, b: Array, k: int) -> float:
    """Residual of the `k` rows best correlated with `b`, weighted."""
    return fitted(A, b, np.argsort(-A @ b, kind="stable")[:k].tolist())[1]
