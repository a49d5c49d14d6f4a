"""What the queries and the noise are made of: scores → precision, budget → ridge."""

import torch
from jaxtyping import Float
from torch import Tensor

PURE_SPAN = 1e-3  # the least ridge: below it float32 features no longer tell the last gains from rounding
TOP_K = 1e6  # the largest ridge: so much noise that earlier picks explain nothing away


def default_noise(k: int, d: int, *, towards_target: bool, diversity: float = 0.5) -> float:
    """The ridge, in units of the mean ‖xᵢ‖², that keeps `k` picks from filling the span of `d` dimensions.

    max(0.1, 10 k/d) towards a target and max(0.1, k/d) for covering the pool, times (1 − diversity) / diversity:
    0.5 is the rule itself, 0 ends at relevance alone (top-k of the first gains), 1 at the pure span.

    Raises:
        ValueError: If `diversity` is outside [0, 1].
    """
    if not 0.0 <= diversity <= 1.0:
        raise ValueError(f"`diversity` must be between 0 (relevance alone) and 1 (span alone), got {diversity}.")
    rule = max(0.1, (10 if towards_target else 1) * k / d)
    if diversity == 0.0:
        return TOP_K
    return min(TOP_K, max(PURE_SPAN, rule * (1.0 - diversity) / diversity))


def precision_from_scores(scores: Float[Tensor, "n s"], *, quality: float = 1.0) -> Float[Tensor, " n"]:
    r"""Scores of one or several judges → how far each row is trusted, w in (0, 1].

    Each column becomes its mid-rank share, (rank − ½)/count over the rows it rates (ties share a rank), so judges
    with other scales weigh alike; a row's share is the mean over the judges that rated it, and w = share^`quality`.
    Row i then has the noise σ²/wᵢ². Rows without any score get the median share.

    Args:
        scores: One column per judge, larger is better, NaN where a judge gave none, (n, s).
        quality: Exponent: 0 ignores the scores, large values end at top-k by score.

    Returns:
        The weights, (n,), float64.

    Raises:
        ValueError: If `quality` is negative.
    """
    if quality < 0:
        raise ValueError(f"`quality` must be 0 (ignore the scores) or larger, got {quality}.")
    shares = torch.stack([_mid_rank_shares(column) for column in scores.double().unbind(dim=1)], dim=1)
    share = shares.nanmean(dim=1)
    share = torch.where(share.isnan(), share.nanmedian(), share)
    return share.pow(quality)


def _mid_rank_shares(column: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    rated = ~column.isnan()
    _, value_of, counts = column[rated].unique(return_inverse=True, return_counts=True)
    shares = torch.full_like(column, torch.nan)
    shares[rated] = ((counts.cumsum(0) - counts.double() / 2) / counts.sum())[value_of]
    return shares


def whiten(queries: Float[Tensor, "m d"]) -> Float[Tensor, "r d"]:
    """Queries with equal energy in every direction they span: (QQᵀ)^(−½) Q up to rotation, (rank, d).

    For a few unlike queries; many queries whitened mean "every direction alike" and lose their relevance.
    """
    _, strengths, directions = torch.linalg.svd(queries.double(), full_matrices=False)
    kept = strengths > strengths[0] * 1e-6
    return directions[kept].to(queries.dtype)
