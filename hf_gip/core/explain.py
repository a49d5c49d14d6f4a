"""Why rows were chosen, or why not: recomputed exactly from the picks, not remembered."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from hf_gip.core.gip import check_precision
from hf_gip.core.matrix import unit_rows
from hf_gip.core.queries import gram_sqrt
from hf_gip.core.spice import SpiceOptions, conflict_with_chosen, new_fisher_state
from hf_gip.core.validation import as_list, brief, check_matrix
from hf_gip.selection import Explanation, Selection, check_row

Name = TypeVar("Name", int, str, int | str)
MAX_NAMED = 5  # queries and rows named in an explanation
MAX_NAMED_PER_PICK = 2  # queries named for each pick of a table
BLOCK = 512  # picks whose kernel exists at a time
ROUNDING = 1e-12  # a row's own energy beside the picks is told from none above this share of the picks' largest


# --- GIP -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def explain(
    selection: Selection,
    row: int,
    features: Float[Tensor, "n d"],
    queries: Float[Tensor, "m d"] | None = None,
    *,
    precision: Float[Tensor, " n"] | None = None,
    names: Sequence[int | str | None] | None = None,
) -> Explanation:
    """Say what `row` added to a selection by `gip`, or which picks made it redundant.

    With L Lᵀ = X_S X_Sᵀ + σ² the Cholesky factor over the picks in their order (rows scaled by their precision), a row
    x has aₜ = (L⁻¹ X_S x)ₜ, the queries βₜ = (L⁻¹ X_S Qᵀ)ₜ, and after t picks C = Qx − Σ aₛβₛ, D = ‖x‖² − Σ aₛ²: all
    of the row's gains along the run follow from one factorization. Time O(k² (k + d)), memory O(k² + k m), float64.

    Args:
        selection: What `gip` returned for these very features.
        row: Position of the row in the pool.
        features: The features handed to `gip`, (n, d).
        queries: The queries handed to `gip`, (m, d), or None for the pool itself.
        precision: The precision handed to `gip`, (n,).
        names: What each query is called, *optional*, defaults to its number; a query called None is not named.

    Returns:
        The explanation.

    Raises:
        TypeError: If `selection` is none, `row` no whole number, or a matrix no floating-point tensor.
        ValueError: If the selection is not one of `gip`'s, or `row` is no row of the pool.
    """
    check_row(row)
    check_matrix("features", features)
    if not isinstance(selection, Selection):
        raise TypeError(f"`selection` must be what `gip` returned, got {brief(selection)}.")
    if queries is not None:
        check_matrix("queries", queries, features.shape[1])
    if precision is not None:
        check_precision(precision, len(features))
    query_names = None if names is None else as_list("names", names, "a list with a name for each query")
    if query_names is not None and len(query_names) != (0 if queries is None else len(queries)):
        raise ValueError(f"`names` must hold one name per query, got {len(query_names)}.")
    parameters = selection.record.get("parameters", {})
    if selection.record.get("method") != "gip" or parameters.get("dual"):
        method = "the dual, which has no queries" if parameters.get("dual") else selection.record.get("method")
        raise ValueError(f"`selection` must come from `gip`, got one by {method}.")
    if not 0 <= row < len(features):
        raise ValueError(f"`row` must be a row of the pool, 0 to {len(features) - 1}, got {row!r}.")
    picks = selection.indices.tolist()
    rank = picks.index(row) + 1 if row in picks else None
    weight = torch.ones(len(features), dtype=torch.float64) if precision is None else precision.double().cpu()
    chosen = _float64_rows(features, picks) * weight[picks][:, None]
    x = _float64_rows(features, [row])[0] * weight[row]
    Q = gram_sqrt(features).cpu() if queries is None else queries.detach().double().cpu()
    if parameters["pursuit"] == "matching":
        course = _course_of_matching(chosen, x, Q)
    else:
        course = _course_of_row(chosen, x, Q, parameters["sigma2"], parameters["tau2"], parameters["objective"])
    step = len(picks) if rank is None else rank - 1
    lost = course.gains[:step] - course.gains[1 : step + 1]
    served = course.shares[step] if queries is not None else torch.zeros(0, dtype=torch.float64)
    return Explanation(
        row=row,
        rank=rank,
        gain=float(course.gains[step]),
        first_gain=float(course.gains[0]),
        novelty=float(course.variance[step] / course.variance[0].clamp(min=1e-300)),
        served=_largest(served, query_names if query_names is not None else range(len(served))),
        covered_by=_largest(lost, picks[:step]),
    )


@dataclass(frozen=True, slots=True)
class _Course:
    """One row along the run: element t is after t picks."""

    gains: Float[Tensor, " steps"]
    variance: Float[Tensor, " steps"]
    shares: Float[Tensor, "steps m"]


def _course_of_row(
    chosen: Float[Tensor, "k d"],
    x: Float[Tensor, " d"],
    Q: Float[Tensor, "m d"],
    sigma2: float,
    tau2: float,
    objective: str,
) -> _Course:
    kernel = chosen @ chosen.T
    variance, a, beta = _condition(kernel, chosen @ x, x @ x, chosen @ Q.T, sigma2)
    correlation = Q @ x - torch.cat([a.new_zeros(1, len(Q)), (a[:, None] * beta).cumsum(0)])
    shares = correlation.square()
    shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-300)
    if objective == "projection":
        return _Course(correlation.square().sum(1) / (variance + sigma2), variance, shares)
    factor = torch.linalg.cholesky(Q @ Q.T + tau2 * torch.eye(len(Q), dtype=torch.float64))
    of_chosen = torch.linalg.solve_triangular(factor, Q @ chosen.T, upper=False)
    of_x = torch.linalg.solve_triangular(factor, (Q @ x)[:, None], upper=False)[:, 0]
    kernel, cross, energy = kernel - of_chosen.T @ of_chosen, chosen @ x - of_chosen.T @ of_x, x @ x - of_x @ of_x
    variance_with_queries = _condition(kernel, cross, energy, kernel[:, :0], sigma2)[0]
    difference = variance - variance_with_queries
    return _Course(0.5 * (difference / (variance_with_queries + sigma2)).log1p(), variance, shares)


def _course_of_matching(chosen: Float[Tensor, "k d"], x: Float[Tensor, " d"], Q: Float[Tensor, "m d"]) -> _Course:
    """The same for matching pursuit, in which the row keeps ‖Cx‖² / ‖x‖² of what it shares with the residual."""
    energy = float(x @ x) or 1.0
    at_picks = _matching_correlations(chosen, Q)
    shares = (chosen @ x / chosen.square().sum(1).clamp(min=1e-300))[:, None] * at_picks
    correlation = Q @ x - torch.cat([shares.new_zeros(1, len(Q)), shares.cumsum(0)])
    gains = correlation.square().sum(1) / energy
    parts = correlation.square() / correlation.square().sum(1, keepdim=True).clamp(min=1e-300)
    kernel, jitter = chosen @ chosen.T, 1e-9 * float(chosen.square().sum(1).max())
    return _Course(gains, _condition(kernel, chosen @ x, x @ x, kernel[:, :0], jitter)[0], parts)


def _matching_correlations(chosen: Float[Tensor, "k d"], Q: Float[Tensor, "m d"]) -> Float[Tensor, "k m"]:
    """What each pick of a matching pursuit shared with the residual of each query when it was picked."""
    C, kernel = chosen @ Q.T, chosen @ chosen.T
    for t in range(len(chosen)):
        C[t + 1 :] -= torch.outer(kernel[t + 1 :, t] / kernel[t, t].clamp(min=1e-300), C[t])
    return C


def _condition(
    kernel: Float[Tensor, "k k"],
    cross: Float[Tensor, " k"],
    energy: Float[Tensor, ""],
    chosen_queries: Float[Tensor, "k m"],
    sigma2: float,
) -> tuple[Float[Tensor, " steps"], Float[Tensor, " k"], Float[Tensor, "k m"]]:
    """The row's variance after each pick, its aₜ, and the queries' βₜ."""
    jitter = sigma2 + 1e-14 * float(kernel.diagonal().max())
    factor = torch.linalg.cholesky(kernel + jitter * torch.eye(len(kernel), dtype=torch.float64))
    solved = torch.linalg.solve_triangular(factor, torch.cat([cross[:, None], chosen_queries], 1), upper=False)
    a, beta = solved[:, 0], solved[:, 1:]
    variance = energy - torch.cat([a.new_zeros(1), a.square().cumsum(0)])
    return variance.clamp(min=0), a, beta


def _float64_rows(features: Float[Tensor, "n d"], rows: Sequence[int]) -> Float[Tensor, "k d"]:
    return features[torch.as_tensor(rows, device=features.device)].detach().double().cpu()


def _largest(values: Float[Tensor, " m"], names: Sequence[Name | None]) -> tuple[tuple[Name, float], ...]:
    best = values.sort(descending=True, stable=True)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    named = [(names[i], value) for i, value in pairs if value > 0]
    return tuple([(name, value) for name, value in named if name is not None][:MAX_NAMED])


@dataclass(frozen=True, slots=True)
class PickSummary:
    """What every pick of a selection by `gip` was good for, in pick order: the figures of a table of picks.

    Attributes:
        novelty: Share of the row that the picks before it did not explain, in [0, 1], (k,).
        served: The queries it served most, (query, share of its gain), largest first, for each pick; empty where the
            pool itself was the query.
        most_similar: The earlier pick it resembles most, as a position among the picks, −1 for the first, (k,).
        cosine: How much, (k,).
    """

    novelty: Float[Tensor, " k"]
    served: list[tuple[tuple[int | str, float], ...]]
    most_similar: Int64[Tensor, " k"]
    cosine: Float[Tensor, " k"]


@torch.no_grad()
def summarize_picks(
    selection: Selection,
    features: Float[Tensor, "n d"],
    queries: Float[Tensor, "m d"] | None = None,
    *,
    precision: Float[Tensor, " n"] | None = None,
    names: Sequence[int | str | None] | None = None,
) -> PickSummary:
    """Say of every pick how new it was, which queries it served and which earlier pick it repeats.

    With Σ the covariance given the picks before a block and L Lᵀ = X_B Σ X_Bᵀ + σ² for the rows of the block, pick t
    has Dₜ = Lₜₜ² − σ², the queries' correlations with it are in proportion to (L⁻¹ X_B Σ Qᵀ)ₜ, and Σ loses VᵀV with
    V = L⁻¹ X_B Σ. Time O(k d² + k m d) and O(k² d) for the similarity, memory O(d² + k m), float64.

    Args:
        selection: What `gip` returned for these very features.
        features: The features handed to `gip`, (n, d).
        queries: The queries handed to `gip`, (m, d), *optional*, defaults to the pool itself.
        precision: The precision handed to `gip`, (n,), *optional*.
        names: What each query is called, as for `explain`, *optional*.
    """
    rows = features[selection.indices.to(features.device)].detach()
    chosen = rows.double().cpu()
    if precision is not None:
        chosen *= precision.double().cpu()[selection.indices][:, None]
    Q = chosen[:0] if queries is None else queries.detach().double().cpu()
    query_names: list[int | str | None] = [*(range(len(Q)) if names is None else names)]
    is_named = torch.tensor([name is not None for name in query_names], dtype=torch.bool)
    parameters = selection.record["parameters"]
    correlations = _matching_correlations(chosen, Q) if parameters["pursuit"] == "matching" else None
    novelty, best_queries, shares = _course_of_picks(chosen, Q, is_named, float(parameters["sigma2"]), correlations)
    served = [
        tuple(
            (name, share)
            for query, share in zip(queries_of_pick, shares_of_pick, strict=True)
            if (name := query_names[query]) is not None and share > 0
        )
        for queries_of_pick, shares_of_pick in zip(best_queries.tolist(), shares.tolist(), strict=True)
    ]
    most_similar, cosine = _most_similar_earlier(unit_rows(rows.float()))
    return PickSummary(novelty, served, most_similar.cpu(), cosine.double().cpu())


def _course_of_picks(
    chosen: Float[Tensor, "k d"],
    Q: Float[Tensor, "m d"],
    is_named: Bool[Tensor, " m"],
    sigma2: float,
    correlations: Float[Tensor, "k m"] | None,
) -> tuple[Float[Tensor, " k"], Int64[Tensor, "k s"], Float[Tensor, "k s"]]:
    """How new each pick was, and the named queries that it served most, with their shares.

    The picks' correlations with the queries are those given, or follow from the posterior.
    """
    energy = chosen.square().sum(1)
    jitter = sigma2 + (1e-13 if correlations is None else 1e-9) * float(energy.max())
    Sigma = torch.eye(chosen.shape[1], dtype=torch.float64)
    num_named = min(MAX_NAMED_PER_PICK, int(is_named.sum()))
    variances, best_queries, best_shares = [], [], []
    for start, rows in zip(range(0, len(chosen), BLOCK), chosen.split(BLOCK), strict=True):
        projected = rows @ Sigma
        kernel = projected @ rows.T
        kernel.diagonal().add_(jitter)
        factor = torch.linalg.cholesky(kernel)
        V = torch.linalg.solve_triangular(factor, projected, upper=False)
        Sigma -= V.T @ V
        variances.append(factor.diagonal().square() - jitter)
        shares = (V @ Q.T if correlations is None else correlations[start : start + len(rows)]).square()
        shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-300)
        best = shares.masked_fill(~is_named, 0.0).topk(num_named, dim=1)
        best_queries.append(best.indices)
        best_shares.append(best.values)
    novelty = (torch.cat(variances) / energy.clamp(min=1e-300)).clamp(0, 1)
    return novelty, torch.cat(best_queries), torch.cat(best_shares)


def _most_similar_earlier(rows: Float[Tensor, "k d"]) -> tuple[Int64[Tensor, " k"], Float[Tensor, " k"]]:
    """For each of these unit rows the earlier one of largest cosine; −1 and 0 for the first."""
    most_similar = torch.full((len(rows),), -1, dtype=torch.int64, device=rows.device)
    cosine = rows.new_zeros(len(rows))
    for first in range(0, len(rows), BLOCK):
        block = rows[first : first + BLOCK]
        cosines = block @ rows[: first + len(block)].T
        positions = torch.arange(cosines.shape[1], device=rows.device)
        cosines.masked_fill_(positions >= positions[first : first + len(block), None], -2.0)
        best = cosines.max(dim=1)
        exists = best.values > -2
        cosine[first : first + len(block)] = torch.where(exists, best.values, 0)
        most_similar[first : first + len(block)] = torch.where(exists, best.indices, -1)
    return most_similar, cosine


# --- SPICE ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpiceExplanation(Explanation):
    """What one row meant to SPICE: `gain` and `first_gain` in nats, `novelty` their ratio.

    Attributes:
        conflict: max(0, −cos) of the row's gradient and the mean of the picks before it (of all, if left out).
    """

    conflict: float = 0.0

    def __str__(self) -> str:
        """The explanation in plain words."""
        share = f"{self.novelty:.0%} of the {self.first_gain:.4g} it holds by itself"
        if self.rank is not None:
            words = [f"Row {self.row:,} was pick {self.rank:,} and added {self.gain:.4g} nats, {share}."]
        else:
            words = [f"Row {self.row:,} was left out: after the last pick it would add {self.gain:.4g} nats, {share}."]
        words.append(f"Its conflict with the picks is {self.conflict:.3g}.")
        return " ".join([*words, *self.covered_words()])


def explain_spice_pick(selection: Selection, row: int) -> SpiceExplanation:
    """Say what a chosen row added, from what the selection itself holds.

    Raises:
        ValueError: If the row was not chosen.
    """
    picks = selection.indices.tolist()
    if row not in picks:
        raise ValueError(
            f"`row` must be one of the {len(picks)} chosen rows, got {row!r}: what a row left out would have added "
            "needs its gradient, which only a frozen proxy (`update_every=None`) still gives."
        )
    step = picks.index(row)
    gain, overlap, conflict = (
        float(values[step]) for values in (selection.gains, selection.curves["overlap"], selection.curves["conflict"])
    )
    novelty = _share(gain, gain - overlap)
    return SpiceExplanation(row, step + 1, gain, gain - overlap, novelty, (), (), conflict=conflict)


@torch.no_grad()
def explain_spice_candidate(
    row: int, gradient: Float[Tensor, " d"], picks: list[int], chosen: Float[Tensor, "j d"], parameters: dict[str, Any]
) -> SpiceExplanation:
    """Say what a row that was not chosen would add after the picks, and which of them explain it.

    Args:
        row: Position of the row in the pool.
        gradient: Its gradient in units of α, (d,).
        picks: Positions of the picks it competed with, in their order.
        chosen: Their gradients, likewise, (j, d).
        parameters: The selection's parameters: `alpha` and `fisher`.

    Returns:
        The explanation; O(j² d) in float64.
    """
    alpha = float(parameters["alpha"])
    rows = torch.cat([chosen, gradient[None]]).double()
    options = SpiceOptions(alpha, 0.0, None, parameters["fisher"])
    fisher = new_fisher_state(options, max(len(picks), 1), rows[0])
    energy = rows.square().sum(dim=1)
    gains = [math.log1p(alpha * float(energy[-1]))]
    for number in range(len(picks)):
        energy = fisher.add(rows, rows[number], energy, energy[number])
        gains.append(math.log1p(alpha * float(energy[-1])))
    lost = sorted(((gains[i] - gains[i + 1], pick) for i, pick in enumerate(picks)), reverse=True)
    total = rows[:-1].sum(dim=0)
    conflict = 0.0
    if picks:
        conflict = float(conflict_with_chosen(rows[-1] @ total, rows[-1].norm(), total.norm(), len(picks)))
    covered = tuple((pick, loss) for loss, pick in lost[:MAX_NAMED] if loss > 0)
    return SpiceExplanation(
        row, None, gains[-1], gains[0], _share(gains[-1], gains[0]), (), covered, conflict=conflict
    )


def _share(gain: float, alone: float) -> float:
    return min(1.0, max(0.0, gain / alone)) if alone > 0 else 0.0


# --- GTP -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GtpExplanation(Explanation):
    """What one row meant to GTP.

    `gain` is ½ wᵢ aᵢᵀb for a chosen row, and ½ (aᵢᵀr)²/‖aᵢ‖² for one left out, what it would lower the loss by after
    the fit, r = b − Aᵀw; `first_gain` is ½ (aᵢᵀb)²/‖aᵢ‖², what it would lower the loss by alone; `novelty` the share
    of aᵢ outside the span of the (other) picks. `covered_by` holds picks j and wⱼ aᵢᵀaⱼ, how much of aᵢᵀb each
    matches.

    Attributes:
        weight: Its weight over all targets, 0 if left out.
        loss_without: What the loss would rise by without it, the other picks fitted again, ½ wᵢ² / (G⁻¹)ᵢᵢ.
    """

    weight: float = 0.0
    loss_without: float = 0.0

    def __str__(self) -> str:
        """The explanation in plain words."""
        if self.rank is None:
            words = [f"Row {self.row:,} was left out: beside the picks it would lower the loss by {self.gain:.4g}"]
            words.append(f"(alone by {self.first_gain:.4g}; {self.novelty:.0%} of it is not in the picks).")
        else:
            words = [f"Row {self.row:,} is number {self.rank:,} with weight {self.weight:.4g}: it accounts for"]
            words.append(f"{self.gain:.4g} of the loss (alone {self.first_gain:.4g}),")
            words.append(f"and without it the loss would rise by {self.loss_without:.4g}.")
        return " ".join([*words, *self.covered_words()])


@torch.no_grad()
def explain_gtp(
    selection: Selection,
    row: int,
    values: Float[Tensor, " d"],
    chosen: Float[Tensor, "k d"],
    targets: Float[Tensor, "m d"],
) -> GtpExplanation:
    """Say what a row matches of the targets, and which picks match it in its place.

    Args:
        selection: What `gtp` chose.
        row: Position of the row in the pool.
        values: aᵢ, its gradients side by side, each times √η of its checkpoint, (d,).
        chosen: Those of the picks in their order, (k, d).
        targets: The targets, likewise, (m, d).

    Returns:
        The explanation; O(k² d + k³) in float64.
    """
    picks = selection.indices.tolist()
    weights = weights_per_target(selection)
    a, A, b = values.double(), chosen.double(), targets.double()
    energy = float(a @ a)
    rank = picks.index(row) + 1 if row in picks else None
    is_other = torch.tensor([pick != row for pick in picks], dtype=torch.bool)
    unmatched = b - weights @ A
    energy_outside = _energy_outside(a, A[is_other & (weights > 0).any(0)])
    alone = _loss_reduction(b @ a, energy)
    matched = (weights * (A @ a)).sum(0)
    ranked = sorted(((float(matched[i]), picks[i]) for i in torch.nonzero(is_other)[:, 0].tolist()), reverse=True)
    covered = tuple((pick, part) for part, pick in ranked[:MAX_NAMED] if part > 0)
    novelty = energy_outside / energy if energy else 0.0
    if rank is None:
        return GtpExplanation(row, None, _loss_reduction(unmatched @ a, energy), alone, novelty, (), covered)
    weight = weights[:, rank - 1]
    lost = sum(
        0.5 * float(w) ** 2 * _energy_outside(a, A[is_other & (each > 0)])
        for w, each in zip(weight, weights, strict=True)
    )
    gain, total = float(selection.gains[rank - 1]), float(weight.sum())
    return GtpExplanation(row, rank, gain, alone, novelty, (), covered, weight=total, loss_without=lost)


def weights_per_target(selection: Selection) -> Float[Tensor, "m k"]:
    """Weights for each target."""
    assert selection.weights is not None
    names = [name for name in selection.curves if name.startswith("weight_")]
    names.sort(key=lambda name: int(name.removeprefix("weight_")))
    return torch.stack([selection.curves[name] for name in names] or [selection.weights]).double()


def _loss_reduction(correlations: Float[Tensor, " m"], energy: float) -> float:
    """What a row lowers the loss by with its best weight for each target."""
    return 0.5 * float(correlations.clamp(min=0).square().sum()) / energy if energy else 0.0


def _energy_outside(a: Float[Tensor, " d"], rows: Float[Tensor, "p d"]) -> float:
    """Energy of `a` outside the span of `rows`: 1 / (G⁻¹)ᵢᵢ of all of them."""
    if not len(rows):
        return float(a @ a)
    basis, sizes, _ = torch.linalg.svd(rows.T, full_matrices=False)
    basis = basis[:, sizes > ROUNDING * sizes[0]]
    for _ in range(2):
        a = a - basis @ (basis.T @ a)
    return float(a @ a)
