"""Orthogonal matching pursuit with non-negative weights, as GRAD-MATCH runs it and with an updated factor."""

import time

import torch
from torch import Tensor

from hf_gip.core.nnls import nnls


def fresh_omp(rows: Tensor, target: Tensor, k: int) -> Tensor:
    """One pass and one dense least squares from scratch per pick, negative weights removed one by one.

    The loop of `OrthogonalMP_REG_Parallel` in CORDS (decile-team/cords, GRAD-MATCH) with `positive=True`; without its
    ridge, which only raises the residual.
    """
    chosen: list[int] = []
    remainder = target.clone()
    while len(chosen) < k:
        scores = rows @ remainder
        scores[chosen] = -torch.inf
        if float(scores.max()) <= 0:
            break
        chosen.append(int(scores.argmax()))
        while True:
            picked = rows[chosen]
            weights = torch.linalg.lstsq((picked @ picked.T).double(), (picked @ target).double()).solution
            if float(weights.min()) >= 0:
                break
            chosen.pop(int(weights.argmin()))
        remainder = target - picked.T @ weights.to(rows.dtype)
    return torch.tensor(chosen)


def fresh_omp_cost(rows: Tensor, target: Tensor, picks: Tensor, samples: int) -> dict[str, float]:
    """Wall-clock and processor seconds that `fresh_omp` takes at least for as many picks.

    A pick's pass, least squares and residual are timed once in the middle of each of `samples` equal stretches of
    `picks`, and multiplied by the stretch. Fits repeated because of negative weights are not counted.
    """
    stretch = len(picks) / samples
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(samples):
        chosen = picks[: max(1, round((number + 0.5) * stretch))].tolist()
        picked = rows[chosen]
        weights = torch.linalg.lstsq((picked @ picked.T).double(), (picked @ target).double()).solution
        remainder = target - picked.T @ weights.to(rows.dtype)
        scores = rows @ remainder
        scores[chosen] = -torch.inf
        scores.argmax()
    return {
        "seconds": (time.perf_counter() - wall) * stretch,
        "cpu_seconds": (time.process_time() - cpu) * stretch,
    }


def updated_omp(rows: Tensor, target: Tensor, k: int) -> Tensor:
    """The same picks rule with a Cholesky factor that grows by a row per pick, refitted non-negatively at the end.

    Negative weights stay until the end here, so this is the cheapest pursuit that makes one pass per pick.
    """
    d = rows.shape[1]
    basis = torch.zeros(k, d, dtype=torch.float64)
    chosen: list[int] = []
    remainder = target.double()
    while len(chosen) < k:
        scores = rows @ remainder.to(rows.dtype)
        scores[chosen] = -torch.inf
        if float(scores.max()) <= 0:
            break
        row = rows[int(scores.argmax())].double()
        done = basis[: len(chosen)]
        for _ in range(2):
            row = row - (done @ row) @ done
        basis[len(chosen)] = row / row.norm()
        remainder = remainder - (basis[len(chosen)] @ remainder) * basis[len(chosen)]
        chosen.append(int(scores.argmax()))
    return torch.tensor(chosen)


def residual(rows: Tensor, target: Tensor, chosen: Tensor) -> float:
    """‖b − Aᵀw‖ / ‖b‖ with the best non-negative weights on the rows chosen."""
    picked, target = rows[chosen].double(), target.double()
    weights = nnls(picked @ picked.T, picked @ target)
    return float((target - weights @ picked).norm() / target.norm())
