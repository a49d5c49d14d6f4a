"""Why a row was chosen, or why not: recomputed exactly from the picks, not remembered."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from hf_gip.core.checks import as_list, check_matrix, check_row, shown
from hf_gip.core.gip_checks import check_precision
from hf_gip.core.queries import square_root
from hf_gip.core.selection import Selection

Name = TypeVar("Name", int, str, int | str)
SHOWN = 5  # queries and rows named in an explanation


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one row meant to a selection.

    Attributes:
        row: Position in the pool.
        rank: When it was chosen, from 1, or None if it was left out.
        gain: What it added when chosen; for a row left out, what it would add after the last pick.
        first_gain: What it would have added as the very first pick.
        novelty: Share of the row itself, in [0, 1], that the earlier picks (all picks, if left out) do not explain.
        served: The queries it served most, (query, share of its gain), largest first; empty where the pool itself
            was the query.
        covered_by: The picks that took most of its gain away, (row, what it lost to them), largest first.
        barred: Why it was not allowed, where a limit and not its gain kept it out.
    """

    row: int
    rank: int | None
    gain: float
    first_gain: float
    novelty: float
    served: tuple[tuple[int | str, float], ...]
    covered_by: tuple[tuple[int, float], ...]
    barred: str = ""

    def __str__(self) -> str:
        """The explanation in plain words."""
        if self.rank is not None:
            words = [f"Row {self.row:,} was pick {self.rank:,} and added {self.gain:.4g}"]
            words.append(f"({self.novelty:.0%} of it was new to the picks before).")
        else:
            words = [f"Row {self.row:,} was left out: after the last pick it would add {self.gain:.4g}"]
            words.append(f"(as the first pick {self.first_gain:.4g}; {self.novelty:.0%} of it is not in the picks).")
        if self.served:
            words.append("It serves " + ", ".join(f"{called(q)} ({share:.0%})" for q, share in self.served) + ".")
        if self.covered_by:
            words.append("Covered by " + ", ".join(f"row {r:,} (−{lost:.3g})" for r, lost in self.covered_by) + ".")
        if self.barred:
            words.append(self.barred)
        return " ".join(words)


def called(query: int | str) -> str:
    """A query in words."""
    return query if isinstance(query, str) else f"query {query}"


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
    of the row's gains along the run follow from one factorisation. Time O(k² (k + d)), memory O(k² + k m), float64.

    Args:
        selection: What `gip` returned for these very features.
        row: Position of the row in the pool.
        features: The features handed to `gip`, (n, d).
        queries: The queries handed to `gip`, (m, d), or None for the pool itself.
        precision: The precision handed to `gip`, (n,).
        names: What each query is called, its number unless told; a query called None is not named.

    Returns:
        The explanation.

    Raises:
        TypeError: If `selection` is none, `row` no whole number, or a matrix no floating-point tensor.
        ValueError: If the selection is not one of `gip`'s, or `row` is no row of the pool.
    """
    check_row(row)
    check_matrix("features", features)
    if not isinstance(selection, Selection):
        raise TypeError(f"`selection` must be what `gip` returned, got {shown(selection)}.")
    if queries is not None:
        check_matrix("queries", queries, features.shape[1])
    if precision is not None:
        check_precision(precision, len(features))
    asked_for = None if names is None else as_list("names", names, "a list with a name for each query")
    if asked_for is not None and len(asked_for) != (0 if queries is None else len(queries)):
        raise ValueError(f"`names` must hold one name per query, got {len(asked_for)}.")
    parameters = selection.record.get("parameters", {})
    if selection.record.get("method") != "gip" or parameters.get("pursuit") != "orthogonal":
        found = [selection.record.get("method"), parameters.get("pursuit")]
        raise ValueError(f"`selection` must come from `gip` with the orthogonal pursuit, got {found}.")
    if not 0 <= row < len(features):
        raise ValueError(f"`row` must be a row of the pool, 0 to {len(features) - 1}, got {row!r}.")
    picks = selection.indices.tolist()
    rank = picks.index(row) + 1 if row in picks else None
    weight = torch.ones(len(features), dtype=torch.float64) if precision is None else precision.double().cpu()
    chosen = _rows(features, picks) * weight[picks][:, None]
    x = _rows(features, [row])[0] * weight[row]
    asked = square_root(features).cpu() if queries is None else queries.detach().double().cpu()
    course = _course(chosen, x, asked, float(parameters["sigma2"]), float(parameters["tau2"]), parameters["objective"])
    at = len(picks) if rank is None else rank - 1
    lost = course.gains[:at] - course.gains[1 : at + 1]
    served = course.shares[at] if queries is not None else torch.zeros(0, dtype=torch.float64)
    return Explanation(
        row=row,
        rank=rank,
        gain=float(course.gains[at]),
        first_gain=float(course.gains[0]),
        novelty=float(course.variance[at] / course.variance[0].clamp(min=1e-300)),
        served=_largest(served, asked_for if asked_for is not None else range(len(served))),
        covered_by=_largest(lost, picks[:at]),
    )


@dataclass(frozen=True, slots=True)
class _Course:
    """One row along the run: element t is after t picks."""

    gains: Float[Tensor, " steps"]
    variance: Float[Tensor, " steps"]
    shares: Float[Tensor, "steps m"]


def _course(
    chosen: Float[Tensor, "k d"],
    x: Float[Tensor, " d"],
    queries: Float[Tensor, "m d"],
    sigma2: float,
    tau2: float,
    objective: str,
) -> _Course:
    kernel = chosen @ chosen.T
    variance, a, beta = _conditioned(kernel, chosen @ x, x @ x, chosen @ queries.T, sigma2)
    correlation = queries @ x - torch.cat([a.new_zeros(1, len(queries)), (a[:, None] * beta).cumsum(0)])
    shares = correlation.square()
    shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-300)
    if objective == "projection":
        return _Course(correlation.square().sum(1) / (variance + sigma2), variance, shares)
    known = torch.linalg.cholesky(queries @ queries.T + tau2 * torch.eye(len(queries), dtype=torch.float64))
    seen = torch.linalg.solve_triangular(known, queries @ chosen.T, upper=False)
    own = torch.linalg.solve_triangular(known, (queries @ x)[:, None], upper=False)[:, 0]
    given, _, _ = _conditioned(kernel - seen.T @ seen, chosen @ x - seen.T @ own, x @ x - own @ own, None, sigma2)
    return _Course(0.5 * ((variance + sigma2) / (given + sigma2)).log(), variance, shares)


def _conditioned(
    kernel: Float[Tensor, "k k"],
    cross: Float[Tensor, " k"],
    energy: Float[Tensor, ""],
    asked: Float[Tensor, "k m"] | None,
    sigma2: float,
) -> tuple[Float[Tensor, " steps"], Float[Tensor, " k"], Float[Tensor, "k m"]]:
    """The row's variance after each pick, its aₜ, and the queries' βₜ."""
    jitter = sigma2 + 1e-14 * float(kernel.diagonal().max())
    factor = torch.linalg.cholesky(kernel + jitter * torch.eye(len(kernel), dtype=torch.float64))
    a = torch.linalg.solve_triangular(factor, cross[:, None], upper=False)[:, 0]
    beta = cross.new_zeros(len(cross), 0)
    if asked is not None:
        beta = torch.linalg.solve_triangular(factor, asked, upper=False)
    variance = energy - torch.cat([a.new_zeros(1), a.square().cumsum(0)])
    return variance.clamp(min=0), a, beta


def _rows(features: Float[Tensor, "n d"], rows: Sequence[int]) -> Float[Tensor, "k d"]:
    return features[torch.as_tensor(rows, device=features.device)].detach().double().cpu()


def _largest(values: Float[Tensor, " m"], names: Sequence[Name | None]) -> tuple[tuple[Name, float], ...]:
    best = values.sort(descending=True, stable=True)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    called = [(names[i], value) for i, value in pairs if value > 0]
    return tuple([(name, value) for name, value in called if name is not None][:SHOWN])
