"""What the picks of `gip` hold of the queries, and what there is to hold."""

import torch
from jaxtyping import Float
from torch import Tensor

from hf_gip.core.engine.ranks import Ranks
from hf_gip.core.rows import Rows
from hf_gip.core.setting import Setting, gram

FULL = 0.999  # share of the queries' energy from which the picks' span counts as full


def span_full_at(chosen: Float[Tensor, "k d"], queries: Float[Tensor, "d r"]) -> int | None:
    """Number of first picks whose span holds `FULL` of the queries' energy, or None if all of them do not."""
    basis = queries.new_zeros(0, len(queries))
    target, held = FULL * float(queries.square().sum()), 0.0
    for start in range(0, len(chosen), 64):
        rows = chosen[start : start + 64]
        norms = rows.norm(dim=1)
        for _ in range(2):
            rows = rows - (rows @ basis.T) @ basis
        fresh, triangle = torch.linalg.qr(rows.T)
        kept = triangle.diagonal().abs() > 1e-6 * norms[: len(triangle.diagonal())]
        energies = (fresh.T @ queries).square().sum(1) * kept
        reached = held + energies.cumsum(0)
        if float(reached[-1]) >= target:
            return start + int((reached >= target).to(torch.uint8).argmax()) + 1
        held = float(reached[-1])
        basis = torch.cat([basis, fresh.T[kept]])
    return None


def most(
    source: Rows, setting: Setting, k: int, objective: str, noise: float, own: bool, ranks: Ranks
) -> float | None:
    """What all rows together would capture; None where that cost a pass nobody asked for."""
    if objective == "projection":
        return setting.query_energy * float(setting.queries.square().sum())
    if k < source.d and not own:
        return None
    known = gram(source, setting.scale, setting.scale.dtype, ranks) / noise
    known.diagonal().add_(1.0)
    left = setting.queries.T @ torch.linalg.solve(known, setting.queries)
    unit = torch.eye(len(left), dtype=torch.float64, device=left.device)
    prior = torch.linalg.slogdet(setting.queries.T @ setting.queries / noise + unit)[1]
    return 0.5 * float(prior - torch.linalg.slogdet(left / noise + unit)[1])


def notes(k: int, taken: int, full_at: int | None, *, budget: int | None) -> list[str]:
    """What a reader of the record should know of how the picks ended."""
    told = []
    if taken < k and budget is not None:
        told.append(f"{taken:,} rows of at most {k:,}: no other row fits what is left of {budget:,} tokens.")
    elif taken < k:
        told.append(
            f"{taken:,} of {k:,} picks hold all that this pool can tell about the queries without noise; "
            "none was added."
        )
    if full_at is not None and full_at < taken:
        told.append(f"{full_at:,} of {taken:,} picks filled the span; the rest refine it.")
    return told
