"""Exact greedy in its plainest form, one pick per pass over the rows: the second reference and the yardstick."""

import torch
from torch import Tensor

from hf_gip.core.engine.greedy import GreedyResult
from hf_gip.core.engine.shortlist import first_best


def project(
    features: Tensor,
    scale: Tensor,
    queries: Tensor,
    k: int,
    ridge: float,
) -> GreedyResult:
    """Greedy for tr(Qᵀ Σ₀ Q) − tr(Qᵀ Σ_S Q): row i adds ‖Cᵢ‖² / (Dᵢ + ridge), C = X Σ_S Q and D = diag X Σ_S Xᵀ."""
    work = scale.dtype
    C = (features.to(work) @ queries.to(work)) * scale[:, None]
    D = (features.double().square().sum(1) * scale.double() ** 2).to(work)
    explained = (1e-12 if work == torch.float64 else 1e-5) * D if ridge == 0 else torch.full_like(D, -1.0)
    stop = torch.finfo(work).eps * float(queries.square().sum()) if ridge == 0 else -1.0
    residual, basis = queries.double().clone(), queries.new_zeros(k, len(queries), dtype=torch.float64)
    taken = torch.zeros(len(D), dtype=torch.bool, device=D.device)
    indices, gains = [], []
    for step in range(k):
        gain = C.square().sum(1) / (D + ridge)
        gain[taken | (explained >= D)] = -torch.inf
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
        a = (features.to(work) @ basis[step].to(work)) * scale
        C -= torch.outer(a, beta.to(work))
        D = (D - a.square()).clamp_(min=0)
        taken[best] = True
        indices.append(best)
        gains.append(float(beta @ beta))
    return GreedyResult(torch.tensor(indices, dtype=torch.int64), torch.tensor(gains, dtype=torch.float64))


def inform(
    features: Tensor,
    scale: Tensor,
    whitened: Tensor,
    k: int,
    ridge: float,
) -> GreedyResult:
    """Greedy for the information: row i adds ½ log((vᵢ + ridge) / (uᵢ + ridge)), v without and u given the queries."""
    work = scale.dtype
    given = torch.eye(len(whitened), dtype=torch.float64, device=scale.device) - whitened @ whitened.T
    plain = torch.eye(len(whitened), dtype=torch.float64, device=scale.device)
    v = (features.double().square().sum(1) * scale.double() ** 2).to(work)
    u = (v - ((features.to(work) @ whitened.to(work)) * scale[:, None]).square().sum(1)).clamp_(min=0)
    taken = torch.zeros(len(v), dtype=torch.bool, device=v.device)
    indices, gains = [], []
    for _ in range(k):
        gain = 0.5 * torch.log1p((v - u) / (u + ridge))
        best = int(first_best(gain.masked_fill_(taken, -torch.inf)))
        x = features[best].double() * float(scale[best])
        b, c = plain @ x, given @ x
        top, bottom = float(b @ x) + ridge, float(c @ x) + ridge
        b, c = b / top**0.5, c / bottom**0.5
        plain -= torch.outer(b, b)
        given -= torch.outer(c, c)
        shadow = (features.to(work) @ torch.stack([b, c], 1).to(work)) * scale[:, None]
        v = (v - shadow[:, 0].square()).clamp_(min=0)
        u = torch.minimum((u - shadow[:, 1].square()).clamp_(min=0), v)
        taken[best] = True
        indices.append(best)
        gains.append(max(0.5 * float(torch.log(torch.tensor(top / bottom, dtype=torch.float64))), 0.0))
    return GreedyResult(torch.tensor(indices, dtype=torch.int64), torch.tensor(gains, dtype=torch.float64))
