"""Exact greedy, one pick per pass over the rows.

Rows enter as `scale[i] * features[i]`, queries as columns, both scaled by the caller so that a typical row has unit
norm. `b` is made in float64 from the picks so far; everything of length n stays in the working dtype.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Picks:
    """Rows taken, in order, with the rise of the objective at each."""

    indices: Int64[Tensor, " k"]
    gains: Float[Tensor, " k"]


def _first_best(gain: Float[Tensor, " n"]) -> int:
    """Lowest row whose gain is the largest up to rounding: equal rows must not be told apart by the last bit."""
    slack = 1e-12 if gain.dtype == torch.float64 else 1e-6
    best = gain.max()
    return int((gain >= best - slack * best.abs()).to(torch.uint8).argmax())


def project(
    features: Float[Tensor, "n d"],
    scale: Float[Tensor, " n"],
    queries: Float[Tensor, "d r"],
    k: int,
    ridge: float,
) -> Picks:
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
        best = _first_best(gain)
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
    return Picks(torch.tensor(indices, dtype=torch.int64), torch.tensor(gains, dtype=torch.float64))


def match(features: Float[Tensor, "n d"], scale: Float[Tensor, " n"], queries: Float[Tensor, "d r"], k: int) -> Picks:
    """Plain matching pursuit: each pick takes its own share of the residual, no earlier pick is revised."""
    work = scale.dtype
    residual, size = queries.double().clone(), 1.0
    C = (features.to(work) @ queries.to(work)) * scale[:, None]
    D = (features.double().square().sum(1) * scale.double() ** 2).to(work)
    D[D == 0] = 1.0  # a zero row has nothing to share: C is zero as well
    taken = torch.zeros(len(D), dtype=torch.bool, device=D.device)
    indices, gains = [], []
    for _ in range(k):
        best = _first_best((C.square().sum(1) / D).masked_fill_(taken, -torch.inf))
        x = features[best].double() * float(scale[best])
        share = (residual.T @ x) / max(float(x @ x), torch.finfo(torch.float64).tiny)
        indices.append(best)
        gains.append(float(share @ share) * float(x @ x) * size**2)
        residual -= torch.outer(x, share)
        taken[best] = True
        left = float(residual.norm())
        if 0 < left < 1e-2:  # it falls geometrically: start from fresh sums, far from underflow
            residual /= left
            size *= left
            C = (features.to(work) @ residual.to(work)) * scale[:, None]
        else:
            C -= torch.outer((features.to(work) @ x.to(work)) * scale, share.to(work))
    return Picks(torch.tensor(indices, dtype=torch.int64), torch.tensor(gains, dtype=torch.float64))


def inform(
    features: Float[Tensor, "n d"],
    scale: Float[Tensor, " n"],
    whitened: Float[Tensor, "d r"],
    k: int,
    ridge: float,
) -> Picks:
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
        best = _first_best(gain.masked_fill_(taken, -torch.inf))
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
    return Picks(torch.tensor(indices, dtype=torch.int64), torch.tensor(gains, dtype=torch.float64))
