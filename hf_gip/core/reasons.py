"""What every pick of a selection by `gip` was good for, all at once: the figures of `explain` for a table of picks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from hf_gip.core.judge import unit_rows
from hf_gip.core.selection import Selection

SERVED = 2  # queries named per pick
BLOCK = 512  # picks whose kernel exists at a time


@dataclass(frozen=True, slots=True)
class Reasons:
    """Figures of each pick, in pick order.

    Attributes:
        new: Share of the row that the picks before it did not explain, in [0, 1], (k,).
        served: The queries it served most, (query, share of its gain), largest first, for each pick; empty where the
            pool itself was the query.
        like: The earlier pick it resembles most, as a position among the picks, −1 for the first, (k,).
        cosine: How much, (k,).
    """

    new: Float[Tensor, " k"]
    served: list[tuple[tuple[int | str, float], ...]]
    like: Int64[Tensor, " k"]
    cosine: Float[Tensor, " k"]


def reasons_of_picks(
    selection: Selection,
    features: Float[Tensor, "n d"],
    queries: Float[Tensor, "m d"] | None = None,
    *,
    precision: Float[Tensor, " n"] | None = None,
    names: Sequence[int | str | None] | None = None,
) -> Reasons:
    """Say of every pick how new it was, which queries it served and which earlier pick it repeats.

    With Σ the covariance given the picks before a block and L Lᵀ = X_B Σ X_Bᵀ + σ² for the rows of the block, pick t
    has Dₜ = Lₜₜ² − σ², the queries' correlations with it are in proportion to (L⁻¹ X_B Σ Qᵀ)ₜ, and Σ loses VᵀV with
    V = L⁻¹ X_B Σ. Time O(k d² + k m d) and O(k² d) for the likeness, memory O(d² + k m), float64.

    Args:
        selection: What `gip` returned for these very features.
        features: The features handed to `gip`, (n, d).
        queries: The queries handed to `gip`, (m, d), or None for the pool itself.
        precision: The precision handed to `gip`, (n,).
        names: What each query is called, as for `explain`.
    """
    picks = selection.indices.to(features.device)
    plain = features[picks].detach()
    chosen = plain.double().cpu()
    if precision is not None:
        chosen *= precision.double().cpu()[selection.indices][:, None]
    asked = chosen[:0] if queries is None else queries.detach().double().cpu()
    known: list[int | str | None] = [*(range(len(asked)) if names is None else names)]
    called = torch.tensor([name is not None for name in known], dtype=torch.bool)
    new, places, shares = _course(chosen, asked, called, float(selection.record["parameters"]["sigma2"]))
    served = [
        tuple(
            (name, share)
            for place, share in zip(row, each, strict=True)
            if (name := known[place]) is not None and share > 0
        )
        for row, each in zip(places.tolist(), shares.tolist(), strict=True)
    ]
    like, cosine = _most_like(unit_rows(plain.float()))
    return Reasons(new, served, like.cpu(), cosine.double().cpu())


def _course(
    chosen: Float[Tensor, "k d"], queries: Float[Tensor, "m d"], called: Bool[Tensor, " m"], sigma2: float
) -> tuple[Float[Tensor, " k"], Int64[Tensor, "k s"], Float[Tensor, "k s"]]:
    """How new each pick was, and the queries that have a name and that it served most, with their shares."""
    energy = chosen.square().sum(1)
    jitter = sigma2 + 1e-13 * float(energy.max())
    spread = torch.eye(chosen.shape[1], dtype=torch.float64)
    most = min(SERVED, int(called.sum()))
    new, places, shares = [], [], []
    for rows in chosen.split(BLOCK):
        seen = rows @ spread
        kernel = seen @ rows.T
        kernel.diagonal().add_(jitter)
        factor = torch.linalg.cholesky(kernel)
        taken = torch.linalg.solve_triangular(factor, seen, upper=False)
        spread -= taken.T @ taken
        new.append(factor.diagonal().square() - jitter)
        found = (taken @ queries.T).square()
        found = found / found.sum(1, keepdim=True).clamp(min=1e-300)
        best = found.masked_fill(~called, 0.0).topk(most, dim=1)
        places.append(best.indices)
        shares.append(best.values)
    return (torch.cat(new) / energy.clamp(min=1e-300)).clamp(0, 1), torch.cat(places), torch.cat(shares)


def _most_like(rows: Float[Tensor, "k d"]) -> tuple[Int64[Tensor, " k"], Float[Tensor, " k"]]:
    """For each of these unit rows the earlier one of largest cosine; −1 and 0 for the first."""
    like = torch.full((len(rows),), -1, dtype=torch.int64, device=rows.device)
    cosine = rows.new_zeros(len(rows))
    for first in range(0, len(rows), BLOCK):
        block = rows[first : first + BLOCK]
        found = block @ rows[: first + len(block)].T
        places = torch.arange(found.shape[1], device=rows.device)
        found.masked_fill_(places >= places[first : first + len(block), None], -2.0)
        best = found.max(dim=1)
        some = best.values > -2
        cosine[first : first + len(block)] = torch.where(some, best.values, 0)
        like[first : first + len(block)] = torch.where(some, best.indices, -1)
    return like, cosine
