"""Plain matching pursuit, one pick per pass over the rows."""

import torch
from jaxtyping import Float
from torch import Tensor

from hf_gip.core.engine.greedy import Picks
from hf_gip.core.engine.shortlist import first_best


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
        best = int(first_best((C.square().sum(1) / D).masked_fill_(taken, -torch.inf)))
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
