"""What queries and noise are made of: scores → precision, budget → ridge, categories → dimensions."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.matrix import InMemoryMatrix, MatrixSource, OneHotMatrix, gram, load_matrix, working_dtype
from hf_gip.core.normalize import mean_row_energy
from hf_gip.core.validation import brief, is_number
from hf_gip.distributed import RowPartition, partition_rows

PURE_SPAN = 1e-3  # the least ridge: below it float32 features no longer tell the last gains from rounding
TOP_K = 1e6  # the largest ridge: so much noise that earlier picks explain nothing away


def default_ridge(k: int, d: int, *, towards_target: bool, diversity: float = 0.5) -> float:
    """The ridge, in units of the mean ‖xᵢ‖², that keeps `k` picks from filling the span of `d` dimensions.

    max(0.1, 10 k/d) towards a target and max(0.1, k/d) for covering the pool, times (1 − diversity) / diversity:
    0.5 is the rule itself, 0 ends at relevance alone (top-k of the first gains), 1 at the pure span.

    Raises:
        ValueError: If `diversity` is outside [0, 1].
    """
    if not is_number(diversity) or not 0.0 <= diversity <= 1.0:
        raise ValueError(
            f"`diversity` must be between 0 (relevance alone) and 1 (span alone), got {brief(diversity)}."
        )
    rule = max(0.1, (10 if towards_target else 1) * k / d)
    if diversity == 0.0:
        return TOP_K
    return min(TOP_K, max(PURE_SPAN, rule * (1.0 - diversity) / diversity))


@torch.no_grad()
def precision_from_scores(
    scores: Float[Tensor, "n s"], *, quality: float = 1.0, weights: Sequence[float] | None = None
) -> Float[Tensor, " n"]:
    r"""Scores of one or several judges → how far each row is trusted, w in (0, 1].

    Each column becomes its mid-rank share, (rank − ½)/count over the rows it rates (ties share a rank), so judges
    with other scales weigh alike; a row's share is the weighted mean over the judges that rated it, and
    w = share^`quality`.
    Row i then has the noise σ²/wᵢ². Rows without any score get the median share.

    Args:
        scores: One column per judge, larger is better, NaN where a judge gave none, (n, s).
        quality: Exponent, *optional*, defaults to `1.0`: 0 ignores the scores, large values end at top-k by score.
        weights: How much each judge counts, above 0, (s,), *optional*, defaults to all alike.

    Returns:
        The weights, (n,), float64.

    Raises:
        ValueError: If `quality` is negative or so large that no row counts, or a weight is not above 0.
    """
    if not is_number(quality) or quality < 0:
        raise ValueError(f"`quality` must be 0 (ignore the scores) or larger, got {brief(quality)}.")
    shares = torch.stack([_mid_rank_shares(column) for column in scores.double().unbind(dim=1)], dim=1)
    if weights is not None and not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise ValueError(
            f"`weights` must be finite and above 0, got {list(weights)}: leave out judges that count nothing."
        )
    weight = torch.ones(shares.shape[1]) if weights is None else torch.tensor(weights)
    counted = weight.to(shares) * ~shares.isnan()
    share = (shares.nan_to_num() * counted).sum(1) / counted.sum(1)  # 0/0, NaN, where no judge rated the row
    share = torch.where(share.isnan(), share.nanmedian(), share)
    weight = share.pow(float(quality))
    if not bool((weight > 0).any()):
        raise ValueError(f"`quality` must leave the best row a weight above 0, got {brief(quality)}: lower it.")
    return weight


def _mid_rank_shares(column: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    rated = ~column.isnan()
    _, value_of, counts = column[rated].unique(return_inverse=True, return_counts=True)
    shares = torch.full_like(column, torch.nan)
    shares[rated] = ((counts.cumsum(0) - counts.double() / 2) / counts.sum())[value_of]
    return shares


@torch.no_grad()
def whiten(queries: Float[Tensor, "m d"]) -> Float[Tensor, "r d"]:
    """Queries with equal energy in every direction they span: (QQᵀ)^(−½) Q up to rotation, (rank, d).

    For a few unlike queries; many queries whitened mean "every direction alike" and lose their relevance.
    """
    _, strengths, directions = torch.linalg.svd(queries.double(), full_matrices=False)
    return directions[strengths > strengths[0] * 1e-6].to(queries.dtype)


@torch.no_grad()
def gram_sqrt(
    features: Float[Tensor, "n d"] | MatrixSource, partition: RowPartition | None = None
) -> Float[Tensor, "r d"]:
    """Few rows with the features' own XᵀX, float64: the pool, of all ranks, as queries of itself."""
    source = InMemoryMatrix(features.detach()) if isinstance(features, Tensor) else features
    partition = partition or partition_rows(source.n, None)
    unit = 2.0 ** round(math.log2(mean_row_energy(source, partition)[0]) / 2)
    total = partition.all_reduce_sum(gram(source, working_dtype(source.dtype), unit=unit))
    energies, directions = torch.linalg.eigh(total)
    return (directions * energies.clamp(min=0).sqrt()).T * unit


@torch.no_grad()
def blend_target_and_pool(
    target: Float[Tensor, "m d"],
    features: Float[Tensor, "n d"] | MatrixSource,
    weight: float,
    partition: RowPartition | None = None,
) -> Float[Tensor, "q d"]:
    """The target's queries and below them the pool's own: `weight` of the energy is the target's."""
    pool = gram_sqrt(features, partition).to(target)
    ratio = target.double().square().sum() / pool.double().square().sum()
    return torch.cat([target, pool * math.sqrt((1 - weight) / weight * float(ratio))])


@torch.no_grad()
def append_category_dims(
    features: MatrixSource,
    queries: Float[Tensor, "m d"],
    codes: Sequence[Int64[Tensor, " n"]],
    sizes: Sequence[int],
    weights: Sequence[float],
    *,
    energy: float,
) -> tuple[MatrixSource, Float[Tensor, "q w"]]:
    """Features and queries with one coordinate more for each value of each categorical column.

    A column of weight w gives each row w times `energy` on the coordinate of its value (none where the
    value is missing), and asks for every value alike, with w times the queries' energy in all.

    Args:
        features: One row per example, (n, d).
        queries: What the rows should be able to express, (m, d).
        codes: For each column the number of each row's value, from 0, −1 where missing, (n,).
        sizes: How many values each column has.
        weights: The weight of each column, above 0.
        energy: Mean ‖x‖² of the rows that may be chosen.

    Returns:
        The features, (n, d + values), and the queries, (m + values, d + values); values in the order of `codes`.
    """
    energy_of_queries = float(queries.double().square().sum())
    d, width = queries.shape[1], sum(sizes)
    wide: MatrixSource = OneHotMatrix(features, codes, sizes, [math.sqrt(weight * energy) for weight in weights])
    if isinstance(features, InMemoryMatrix):
        wide = InMemoryMatrix(load_matrix(wide))
    per_value = [weight * energy_of_queries / size for weight, size in zip(weights, sizes, strict=True)]
    strengths = torch.tensor(
        [math.sqrt(each) for each, size in zip(per_value, sizes, strict=True) for _ in range(size)]
    )
    value_queries = torch.cat([queries.new_zeros(width, d), torch.diag(strengths).to(queries)], dim=1)
    return wide, torch.cat([torch.cat([queries, queries.new_zeros(len(queries), width)], dim=1), value_queries])
