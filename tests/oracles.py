"""Slow answers in float64, written from the definitions with `numpy.linalg` and nothing of the package."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def noise_levels(X: Matrix, Q: Matrix, noise: float) -> tuple[float, float]:
    """σ² and τ²: `noise` times the mean energy of a row and of a query."""
    return noise * float((X**2).sum(1).mean()), noise * float((Q**2).sum(1).mean())


def posterior(X: Matrix, rows: Sequence[int], sigma2: float, w: Matrix) -> Matrix:
    """Covariance of g ~ N(0, I) once zᵢ = xᵢᵀg + (σ/wᵢ)ε is known for the rows; σ = 0 projects them out."""
    d = X.shape[1]
    F = (X * w[:, None])[list(rows)]
    if sigma2 == 0:
        return np.eye(d) - np.linalg.pinv(F, rcond=1e-9) @ F
    return np.linalg.inv(np.eye(d) + F.T @ F / sigma2)


def captured(X: Matrix, Q: Matrix, rows: Sequence[int], noise: float, w: Matrix | None = None) -> float:
    """tr(QQᵀ) − tr(Q Σ_S Qᵀ)."""
    w = np.ones(len(X)) if w is None else w
    sigma2, _ = noise_levels(X, Q, noise)
    return float(np.trace(Q @ (np.eye(X.shape[1]) - posterior(X, rows, sigma2, w)) @ Q.T))


def information(X: Matrix, Q: Matrix, rows: Sequence[int], noise: float, w: Matrix | None = None) -> float:
    """I(z_S; y) from the three log-determinants of the joint covariance: h(z) + h(y) − h(z, y)."""
    w = np.ones(len(X)) if w is None else w
    rows = [i for i in rows if w[i] > 0]  # an infinitely noisy row tells nothing
    sigma2, tau2 = noise_levels(X, Q, noise)
    joint = np.vstack([X[rows], Q])
    K = joint @ joint.T + np.diag(np.r_[sigma2 / w[rows] ** 2, np.full(len(Q), tau2)])
    s = len(rows)
    return 0.5 * float(np.linalg.slogdet(K[:s, :s])[1] + np.linalg.slogdet(K[s:, s:])[1] - np.linalg.slogdet(K)[1])


def greedy(value: Callable[[list[int]], float], n: int, k: int) -> tuple[list[int], float]:
    """Try every row at every pick. Values within 1e-9 of the best tie; the lowest row wins."""
    rows: list[int] = []
    for _ in range(k):
        remaining = [i for i in range(n) if i not in rows]
        values = np.array([value([*rows, i]) for i in remaining])
        rows.append(remaining[int(np.argmax(values >= values.max() - 1e-9 * abs(values.max())))])
    return rows, value(rows)


def matching_pursuit(X: Matrix, Q: Matrix, k: int) -> tuple[list[int], list[float]]:
    """The textbook loop on the residual itself; returns the picks and the energy that each removes."""
    R, rows, removed = Q.copy(), [], []
    for _ in range(k):
        norms = np.maximum((X**2).sum(1), np.finfo(float).tiny)
        share = ((R @ X.T) ** 2).sum(0) / norms
        share[rows] = -1
        i = int(share.argmax())
        after = R - np.outer(R @ X[i], X[i]) / norms[i]
        removed.append(float((R**2).sum() - (after**2).sum()))
        rows.append(i)
        R = after
    return rows, removed


def dual_pursuit_gains(X: Matrix, scores: Matrix, rows: Sequence[int]) -> list[Matrix]:
    """Literal matching pursuit in the dual, from the whole Gram matrix: every row's gain before each of these picks.

    C starts as the scores; row i can explain ‖Cᵢ‖² / Kᵢᵢ; a pick j takes K_j Cⱼ / Kⱼⱼ from C.
    """
    K, C, gains = X @ X.T, scores.copy(), []
    norms = np.where(np.diag(K) == 0, np.inf, np.diag(K))  # a zero row explains nothing
    for j in rows:
        gains.append((C**2).sum(1) / norms)
        C -= np.outer(K[:, j], C[j]) / norms[j]
    return gains


def greedy_dpp(X: Matrix, sigma2: float, k: int) -> list[int]:
    """Greedy log det(I + X_S X_Sᵀ / σ²), one determinant per candidate and pick (D-optimal, MAP of a DPP)."""
    L = np.eye(len(X)) + X @ X.T / sigma2

    def logdet(rows: list[int]) -> float:
        return float(np.linalg.slogdet(L[np.ix_(rows, rows)])[1])

    return greedy(logdet, len(X), k)[0]
