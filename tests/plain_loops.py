"""Exact greedy in its plainest form, one pick per pass over the rows: the second reference and the yardstick."""

import torch
from torch import Tensor

from hf_gip.core.engine.greedy import GreedyResult
from hf_gip.core.engine.shortlist import first_best


def greedy_projection(
    features: Tensor,
    scale: Tensor,
    queries: Tensor,
    k: int,
    ridge: float,
) -> GreedyResult:
    """Greedy for tr(Qᵀ Σ₀ Q) − tr(Qᵀ Σ_S Q): row i adds ‖Cᵢ‖² / (Dᵢ + ridge), C = X Σ_S Q and D = diag X Σ_S Xᵀ."""
    dtype = scale.dtype
    C = (features.to(dtype) @ queries.to(dtype)) * scale[:, None]
    D = (features.double().square().sum(1) * scale.double() ** 2).to(dtype)
    explained = (1e-12 if dtype == torch.float64 else 1e-5) * D if ridge == 0 else torch.full_like(D, -1.0)
    stop = torch.finfo(dtype).eps * float(queries.square().sum()) if ridge == 0 else -1.0
    residual, basis = queries.double().clone(), queries.new_zeros(k, len(queries), dtype=torch.float64)
    is_chosen = torch.zeros(len(D), dtype=torch.bool, device=D.device)
    indices, gains = [], []
    for step in range(k):
        gain = C.square().sum(1) / (D + ridge)
        gain[is_chosen | (explained >= D)] = -torch.inf
        best = int(first_best(gain))
        if not float(gain[best]) > stop:
            break
        x = features[best].double() * float(scale[best])
        b = x - (basis[:step] @ x) @ basis[:step]
        if ridge == 0:  # a second sweep keeps the basis orthogonal to rounding
            b -= (basis[:step] @ b) @ basis[:step]
        root = (max(float(b @ x), 0.0) + ridge) ** 0.5
        basis[step] = b / root
        beta = residual.T @ x / root
        residual -= torch.outer(basis[step], beta)
        a = (features.to(dtype) @ basis[step].to(dtype)) * scale
        C -= torch.outer(a, beta.to(dtype))
        D = (D - a.square()).clamp_(min=0)
        is_chosen[best] = True
        indices.append(best)
        gains.append(float(beta @ beta))
    return GreedyResult(torch.tensor(indices, dtype=torch.int64), torch.tensor(gains, dtype=torch.float64))


def greedy_information(
    features: Tensor,
    scale: Tensor,
    whitened: Tensor,
    k: int,
    ridge: float,
) -> GreedyResult:
    """Greedy for the information: row i adds ½ log((vᵢ + ridge) / (uᵢ + ridge)), v without and u given the queries."""
    dtype = scale.dtype
    Sigma_given_queries = torch.eye(len(whitened), dtype=torch.float64, device=scale.device) - whitened @ whitened.T
    Sigma = torch.eye(len(whitened), dtype=torch.float64, device=scale.device)
    v = (features.double().square().sum(1) * scale.double() ** 2).to(dtype)
    u = (v - ((features.to(dtype) @ whitened.to(dtype)) * scale[:, None]).square().sum(1)).clamp_(min=0)
    is_chosen = torch.zeros(len(v), dtype=torch.bool, device=v.device)
    indices, gains = [], []
    for _ in range(k):
        gain = 0.5 * torch.log1p((v - u) / (u + ridge))
        best = int(first_best(gain.masked_fill_(is_chosen, -torch.inf)))
        x = features[best].double() * float(scale[best])
        b, c = Sigma @ x, Sigma_given_queries @ x
        numerator, denominator = float(b @ x) + ridge, float(c @ x) + ridge
        b, c = b / numerator**0.5, c / denominator**0.5
        Sigma -= torch.outer(b, b)
        Sigma_given_queries -= torch.outer(c, c)
        shadow = (features.to(dtype) @ torch.stack([b, c], 1).to(dtype)) * scale[:, None]
        v = (v - shadow[:, 0].square()).clamp_(min=0)
        u = torch.minimum((u - shadow[:, 1].square()).clamp_(min=0), v)
        is_chosen[best] = True
        indices.append(best)
        gains.append(max(0.5 * float(torch.log(torch.tensor(numerator / denominator, dtype=torch.float64))), 0.0))
    return GreedyResult(torch.tensor(indices, dtype=torch.int64), torch.tensor(gains, dtype=torch.float64))
