r"""Greedy Information Projection: choose rows whose span answers the queries.

A Gaussian g ~ N(0, I) is read through noise by the rows, zᵢ = xᵢᵀg + (σ/wᵢ)·ε, and by the queries, yⱼ = qⱼᵀg + τ·ε
([GIP](https://huggingface.co/papers/2603.13790)). Once the rows S are known, g has the covariance

    Σ_S = (I + X_Sᵀ W_S² X_S / σ²)⁻¹,                                                                    (1)

and the two objectives, and what row i adds to them, are

    projection    tr(Q Qᵀ) − tr(Q Σ_S Qᵀ),   ‖Q Σ_S xᵢ‖² / (xᵢᵀ Σ_S xᵢ + σ²/wᵢ²),                        (2)
    information   ½ log det(Q Qᵀ + τ²I) − ½ log det(Q Σ_S Qᵀ + τ²I),   ½ log((vᵢ + σ²/wᵢ²) / (uᵢ + σ²/wᵢ²)),  (3)

with vᵢ = xᵢᵀ Σ_S xᵢ the row's variance given S, and uᵢ that given S and the queries. (The numbers are of this page.
The paper maximizes (3), I(z_S; y), through (2), which bounds it from below.)

`gip_reference` is (1) to (3) as written. `gip` makes the same picks through `engine/`, which reads the rows once per
block of picks. `gip_dual` starts from X Qᵀ instead of Q, `matching_pursuit` never revises a pick; both together are
what the paper runs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.constraints import Constraints, ConstraintState, Unconstrained
from hf_gip.core.engine.greedy import GreedyResult, greedy
from hf_gip.core.engine.shortlist import first_best, gain_ratio, tie_slack
from hf_gip.core.engine.state import InformationState, ObjectiveState, ProjectionState, row_energies, scaled_product
from hf_gip.core.matrix import InMemoryMatrix, MatrixSource, as_source, gather_numbered, gram, working_dtype
from hf_gip.core.normalize import NormalizedProblem, mean_row_energy, normalize_problem
from hf_gip.core.validation import (
    brief,
    check_choice,
    check_group_and_progress,
    check_k,
    check_number,
    is_int,
    is_number,
)
from hf_gip.distributed import RowPartition, assert_equal_on_all, check_on_all, partition_rows, tensor_checksum
from hf_gip.selection import Selection

SATURATED = 0.999  # share of the queries' energy from which the picks' span counts as full


@torch.no_grad()
def gip_reference(
    X: Float[Tensor, "n d"], Q: Float[Tensor, "m d"], k: int, *, sigma2: float, tau2: float | None = None
) -> tuple[list[int], list[float]]:
    """The greedy loop as the equations have it, in float64: picks and gains. The yardstick of `gip`, O(k n d²).

    Maximizes the projection (2); given `tau2`, the information (3).
    """
    X, Q = X.double(), Q.double()
    Sigma = torch.eye(X.shape[1], dtype=torch.float64)  # (1) for S = ∅
    Sigma_y = Sigma if tau2 is None else torch.linalg.inv(Sigma + Q.T @ Q / tau2)  # the same, given the queries
    indices: list[int] = []
    gains: list[float] = []
    for _ in range(k):
        variance = ((X @ Sigma) * X).sum(1) + sigma2
        if tau2 is None:
            gain = (X @ Sigma @ Q.T).square().sum(1) / variance  # (2)
        else:
            gain = 0.5 * (((X @ (Sigma - Sigma_y)) * X).sum(1) / (((X @ Sigma_y) * X).sum(1) + sigma2)).log1p()  # (3)
        gain[indices] = -torch.inf
        i = int((gain >= gain.max() - tie_slack(torch.float64) * gain.max().abs()).to(torch.uint8).argmax())
        indices.append(i)
        gains.append(float(gain[i]))
        Sigma = condition_on(Sigma, X[i], sigma2)
        Sigma_y = condition_on(Sigma_y, X[i], sigma2)
    return indices, gains


def condition_on(Sigma: Float[Tensor, "d d"], x: Float[Tensor, " d"], sigma2: float) -> Float[Tensor, "d d"]:
    """The covariance once xᵀg is known up to noise of variance `sigma2` (Sherman and Morrison)."""
    b = Sigma @ x
    return Sigma - torch.outer(b, b) / (x @ b + sigma2)


@torch.no_grad()
def gip(
    features: Float[Tensor, "n d"] | MatrixSource,
    queries: Float[Tensor, "m d"] | None,
    k: int,
    *,
    objective: Literal["projection", "information"] = "projection",
    noise: float = 0.1,
    precision: Float[Tensor, " n"] | None = None,
    pursuit: Literal["orthogonal", "matching"] = "orthogonal",
    prefilter: int | None = None,
    constraints: Constraints | None = None,
    group: dist.ProcessGroup | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Selection:
    r"""Choose `k` rows that hold most of what the queries ask for.

    With Σ_S = (I + X_Sᵀ W_S² X_S / σ²)⁻¹, what g ~ N(0, I) may still be once the rows S are known up to noise
    ([GIP](https://huggingface.co/papers/2603.13790)), the two objectives are

    - projection: tr(Q Qᵀ) − tr(Q Σ_S Qᵀ), the queries' energy held by the (ridge) span of the rows. Row i adds
      ‖Q Σ_S xᵢ‖² / (xᵢᵀ Σ_S xᵢ + σ²/wᵢ²);
    - information: I(z_S; y) = ½ log det(Q Qᵀ + τ²I) − ½ log det(Q Σ_S Qᵀ + τ²I), in nats. Row i adds
      ½ log((vᵢ + σ²/wᵢ²) / (uᵢ + σ²/wᵢ²)), vᵢ its variance given S and uᵢ given S and the queries.

    Both are exact greedy: every pick is the best row given all earlier ones; of rows that tie up to rounding the
    lowest comes first. `noise` is free of scale: σ² = noise · mean ‖xᵢ‖² and τ² = noise · mean ‖qⱼ‖². Only QᵀQ
    matters, so the queries are first compressed to their rank r ≤ min(m, d). Never an n × n matrix. Sums run in
    float32 (float64 for float64 features); for `noise` below 1e-4 use float64.

    The engine drafts a block of picks on a shortlist and verifies it on all rows in one pass, so that the rows are
    read once for some 10 to 60 picks; the picks are those of one pass per pick. Memory beside the features: some ten
    numbers per row, at most 256 MiB of products, and n·r numbers when 3r ≤ d (or `noise` is below 0.01).

    Args:
        features: One row per example, (n, d): a tensor, or rows that stay elsewhere, such as
            `hf_gip.npy_rows(path)`, which are read in order once per block.
        queries: What the chosen rows should be able to express, (m, d); None means the features themselves.
        k: How many rows to choose.
        objective: What is maximized, *optional*, defaults to `"projection"`.
        noise: Noise on rows and queries as a share of their mean energy, *optional*, defaults to `0.1`. 0 is the plain
            projection.
        precision: How far each row is to be trusted, wᵢ ≥ 0, (n,): its noise is σ²/wᵢ². *Optional*, defaults to 1 for
            all.
        pursuit: `"orthogonal"` revises the whole projection at each pick; `"matching"` is the paper's rank-one
            matching pursuit: a pick explains its own share ‖Rxᵢ‖² / ‖xᵢ‖² of the residual R and stays as it is, one
            pass per pick (no precision; `noise` does not enter). *Optional*, defaults to `"orthogonal"`.
        prefilter: An approximation for huge pools, in rows: only this many rows with the largest first gains are
            candidates. `record["prefilter"]` holds the first gain of the last candidate and of the first row cut.
            *Optional*, defaults to all rows.
        constraints: Initial rows, quotas per group, a budget of tokens (`hf_gip.Constraints`), *optional*; each
            pick is the best row that is still allowed. A budget, and each initial row, costs one pass per pick.
        group: Processes that share the rows (`torch.distributed.group.WORLD` under `torchrun`), *optional*: `features`
            and `precision` are then this rank's share, rows are numbered through in rank order, and every rank returns
            the whole selection; `constraints` are those of all rows on every rank. A block of picks costs one gather
            of its shortlist and one reduction. A rank that ends makes the others fail; one that hangs does so within
            the group's `timeout`.
        progress: Called after each pass with the number of picks and of passes so far, *optional*.

    Returns:
        The picks in order, initial rows first; `total` is tr(Q Qᵀ), or for the information that of the whole pool
        where it costs no more than the picks (k ≥ d, or no queries). Fewer than `k` with `noise=0`, once nothing is
        left to gain, and where a budget is spent; `record["notes"]` then says so.

    Raises:
        TypeError: If a matrix is no floating-point tensor.
        ValueError: If a shape, a value or a name is wrong, the features or the queries are all zero, or ranks
            disagree.
    """
    check_objective(objective, noise)
    noise = float(noise)
    _check_pursuit(pursuit, objective, precision)
    if pursuit == "matching":
        noise = 0.0
    check_group_and_progress(group, progress)
    source = check_on_all(lambda: _checked_rows(features, precision), group)
    if group is not None:
        if pursuit == "matching" or prefilter is not None:
            raise ValueError("`group` must go without `pursuit` and `prefilter`: select in one process.")
        arguments = {"k": k, "objective": objective, "noise": noise, "width": source.d, "dtype": str(source.dtype)}
        if isinstance(constraints, Constraints):
            arguments["constraints"] = constraints.checksum()
        assert_equal_on_all(arguments | {"queries": tensor_checksum(queries)}, group)
    partition = partition_rows(source.n, group)
    k = check_k(k, partition.n)
    if prefilter is not None and not (is_int(prefilter) and k <= prefilter <= source.n):
        raise ValueError(
            f"`prefilter` must lie between `k` ({k}) and the number of rows ({source.n}), got {brief(prefilter)}."
        )
    if constraints is not None:
        _check_constraints(constraints, partition.n, k, noise > 0 or pursuit == "matching", prefilter is None)
    problem = normalize_problem(source, queries, precision, partition)
    solve = _Solver(problem, k, noise, objective, pursuit)
    if prefilter is None:
        result, cut = solve(source, problem.scale, constraints, partition, progress), {}
    else:
        candidates, cut = solve.prefilter(source, int(prefilter))
        inside = InMemoryMatrix(source.rows(candidates))
        result = solve(inside, problem.scale[candidates], None, None, progress)
        result = GreedyResult(candidates.cpu()[result.indices], result.gains, result.passes)
    gains = result.gains * (problem.query_energy if objective == "projection" else 1.0)
    chosen = gather_numbered(source, result.indices, partition) / math.sqrt(problem.row_energy)
    saturated_at = rank_saturated_at(chosen, problem.queries)
    record: dict[str, Any] = {
        "method": "gip",
        "parameters": {
            "k": k,
            "objective": objective,
            "noise": noise,
            "pursuit": pursuit,
            "precision": precision is not None,
            **({"variant": "MP+SC"} if pursuit == "matching" and queries is None else {}),
            "sigma2": noise * problem.row_energy,
            "tau2": noise * problem.query_energy,
            "query_rank": problem.queries.shape[1],
            "dtype": str(problem.scale.dtype).removeprefix("torch."),
        },
        "span_full_at": saturated_at,
        "notes": selection_notes(k, len(gains), saturated_at, None if constraints is None else constraints.max_tokens),
        **cut,
    }
    total = max_objective(source, problem, k, objective, noise, queries is None, partition)
    return Selection(result.indices, gains, total=total, record=record)


@dataclass(frozen=True, slots=True)
class _Solver:
    """A normalized problem, to be solved over all rows or over candidates."""

    problem: NormalizedProblem
    k: int
    noise: float
    objective: str
    pursuit: str

    def __call__(
        self,
        source: MatrixSource,
        scale: Float[Tensor, " n"],
        constraints: Constraints | None,
        partition: RowPartition | None,
        progress: Callable[[int, int], None] | None,
    ) -> GreedyResult:
        allowed = Unconstrained()
        if constraints is not None:
            log_gain = self.objective == "information"
            n = source.n if partition is None else partition.n
            allowed = ConstraintState(constraints, n, self.k, scale.device, log_gain=log_gain, partition=partition)
        if self.pursuit == "matching":
            return matching_pursuit(source, scale, self.k, queries=self.problem.queries, constraints=allowed)
        state = self.state(source, scale)
        return greedy(source, state, self.k, constraints=allowed, partition=partition, progress=progress)

    def state(self, source: MatrixSource, scale: Float[Tensor, " n"]) -> ObjectiveState:
        queries = self.problem.queries
        if self.objective == "projection":
            return ProjectionState(source, scale, queries, self.k, self.noise)
        whitened = queries / (queries.square().sum(0) + self.noise).sqrt()  # W = Q (QᵀQ + τ²I)^(−½): I − WWᵀ given y
        return InformationState(source, scale, whitened, self.k, self.noise)

    def prefilter(self, source: MatrixSource, size: int) -> tuple[Int64[Tensor, " p"], dict[str, Any]]:
        """The rows with the largest first gains, in their order, and what was cut."""
        state = self.state(source, self.problem.scale)
        first_gains = gain_ratio(state.numerator, state.denominator, state.min_denominator)
        gains, order = first_gains.sort(descending=True, stable=True)
        cut = {
            "kept": size,
            "last_kept": float(gains[size - 1]),
            "first_cut": float(gains[size]) if size < len(gains) else None,
        }
        return order[:size].sort().values, {"prefilter": cut}


@torch.no_grad()
def gip_dual(
    features: Float[Tensor, "n d"] | MatrixSource,
    scores: Float[Tensor, "n s"],
    k: int,
    *,
    pursuit: Literal["orthogonal", "matching"] = "orthogonal",
    noise: float = 0.1,
    weights: Sequence[float] | None = None,
    constraints: Constraints | None = None,
) -> Selection:
    r"""Choose `k` rows in the dual, in which no query vector is built ([GIP](https://huggingface.co/papers/2603.13790)).

    What a query would have in common with each row, C = X Qᵀ, starts as the scores themselves, one column each, and
    every pick j takes from all rows what they share with it. With K = X Xᵀ, of which one column per pick is computed:

    - `pursuit="matching"`, what the paper runs (its MP+MA): judgments as they are, rank-one matching pursuit,

          j = argmax ‖Cᵢ‖² / Kᵢᵢ,  C ← C − K_j Cⱼ / Kⱼⱼ;

    - `pursuit="orthogonal"`, an orthogonal, ridged reading of it, in which a pick revises the ones before and columns
      are first brought to mean square 1, so that judges with other scales weigh alike:

          j = argmax ‖Cᵢ‖² / (Dᵢ + σ²),  C ← C − a Cⱼ / √(Dⱼ + σ²),  D ← D − a²,  a = X Σ_S xⱼ / √(Dⱼ + σ²).

    Scores are not centered: the gain squares C and does not see signs, so that after centering the worst rows would
    count as much as the best. What of the scores lies outside the rows' span no pick changes: for k far above d both
    end near top-k by ‖Cᵢ‖ / ‖xᵢ‖. Scores as precision (`gip`) choose better rows on real data
    (`docs/concepts.md`); this form is here to compare with the paper. Cost and memory as for `gip` with s queries.

    Args:
        features: One row per example, (n, d).
        scores: One column per judge, at least 0, larger is better, NaN where a judge gave none (it then counts as
            the judge's mean), (n, s).
        k: How many rows to choose.
        pursuit: See above, *optional*, defaults to `"orthogonal"`.
        noise: The ridge σ² in units of the mean ‖xᵢ‖², above 0, *optional*, defaults to `0.1`; the matching pursuit
            has none.
        weights: How much each judge counts, above 0: its column is multiplied by the root, (s,), *optional*, defaults
            to 1 for all.
        constraints: Initial rows, quotas per group, a budget of tokens (`hf_gip.Constraints`), *optional*.

    Returns:
        The picks in order; gains are ‖Cⱼ‖² / Kⱼⱼ, or those of the ridged form in its units. There is no `total`:
        scores need not lie in the rows' span.

    Raises:
        TypeError: If a matrix is no floating-point tensor.
        ValueError: If a shape or a value is wrong, or a score is negative.
    """
    source = as_source("features", features)
    k = check_k(k, source.n)
    check_choice("pursuit", pursuit, ("orthogonal", "matching"))
    if not (is_number(noise) and noise > 0):
        raise ValueError(f"`noise` must be a finite number above 0 for the dual form, got {noise!r}.")
    row_energy, device = mean_row_energy(source)
    columns = _score_columns(scores, source.n, weights, alike=pursuit == "orthogonal")
    dtype = working_dtype(source.dtype)
    scale = torch.full((source.n,), 1 / math.sqrt(row_energy), dtype=dtype, device=device)
    allowed = Unconstrained()
    if constraints is not None:
        _check_constraints(constraints, source.n, k, True, True)
        allowed = ConstraintState(constraints, source.n, k, device, log_gain=False)
    if pursuit == "matching":
        noise, unit = 0.0, float(columns.abs().max()) or 1.0
        result = matching_pursuit(source, scale, k, correlation=columns.to(device) / unit, constraints=allowed)
        gains = result.gains * unit**2 / row_energy
    else:
        noise = float(noise)
        state = ProjectionState(source, scale, None, k, noise, correlation=columns.to(device, dtype))
        result = greedy(source, state, k, constraints=allowed)
        gains = result.gains
    parameters = {
        "k": k,
        "objective": "projection",
        "noise": noise,
        "pursuit": pursuit,
        "dual": True,
        **({"variant": "MP+MA"} if pursuit == "matching" and weights is None else {}),
        "sigma2": noise * row_energy,
        "dtype": str(dtype).removeprefix("torch."),
    }
    notes = selection_notes(k, len(gains), None, None if constraints is None else constraints.max_tokens)
    return Selection(result.indices, gains, record={"method": "gip", "parameters": parameters, "notes": notes})


def _score_columns(scores: object, n: int, weights: Sequence[float] | None, *, alike: bool) -> Float[Tensor, "n s"]:
    """Scores in float64, holes filled, weighted; each column of mean square 1 where judges are to weigh `alike`.

    Raises:
        TypeError: If they are no floating-point tensor.
        ValueError: If they have another shape, or one is negative or not finite.
    """
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        raise TypeError(f"`scores` must be a floating-point tensor, got {brief(scores)}: use `.float()`.")
    if scores.ndim != 2 or len(scores) != n or not scores.shape[1]:
        raise ValueError(f"`scores` must hold one row per row of `features` ({n}), got shape {tuple(scores.shape)}.")
    scores = scores.detach().double()
    filled = torch.where(scores.isnan(), scores.nanmean(dim=0), scores)
    if not bool(filled.isfinite().all()):
        raise ValueError("`scores` must be finite, with a number in every column, got infinity or a column of NaN.")
    if float(filled.min()) < 0:
        raise ValueError(
            f"`scores` must be at least 0 as queries, got {float(filled.min()):g}: the projection does not see signs, "
            "so add a constant, or use them as precision."
        )
    if alike:
        filled = filled / filled.square().mean(dim=0).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    return filled if weights is None else filled * torch.tensor(weights, dtype=torch.float64).to(filled).sqrt()


def matching_pursuit(
    source: MatrixSource,
    scale: Float[Tensor, " n"],
    k: int,
    *,
    queries: Float[Tensor, "d r"] | None = None,
    correlation: Float[Tensor, "n r"] | None = None,
    constraints: Unconstrained,
) -> GreedyResult:
    """Rank-one matching pursuit, one pass a pick: each pick explains its share of the residual, none is revised.

    It starts from queries, or in the dual from their correlation C with the rows. Each pick j takes its share
    Cⱼ / ‖xⱼ‖² from C along X xⱼ, and from the residual of the queries along xⱼ.
    """
    residual, unit = None if queries is None else queries.double().clone(), 1.0
    if residual is not None:
        C = scaled_product(source, scale, residual)
    else:
        assert correlation is not None
        C = correlation.to(scale.dtype, copy=True)
    D = row_energies(source, scale, None)
    D[D == 0] = torch.inf  # a zero row explains nothing, whatever its scores
    chosen = torch.zeros(len(D), dtype=torch.bool, device=D.device)
    indices, gains = [], []
    for _ in range(k):
        rank = constraints.rank((C.square().sum(1) / D).masked_fill_(chosen, -torch.inf))
        best = first_best(rank)
        if float(rank[best]) == -torch.inf:
            break  # no other row is allowed
        constraints.update(best.view(1).cpu())
        x = source.rows(best.view(1))[0].double() * scale[best].double()
        common = C[best].double() if residual is None else residual.T @ x
        share = common / (float(x @ x) or math.inf)
        indices.append(int(best))
        gains.append(float(common @ share) * unit**2)
        chosen[best] = True
        if residual is not None:
            residual -= torch.outer(x, share)
            norm = float(residual.norm())
            if 0 < norm < 1e-2:  # it falls geometrically: start from fresh sums, far from underflow
                residual /= norm
                unit *= norm
                C = scaled_product(source, scale, residual)
                continue
        C -= scaled_product(source, scale, x[:, None]) * share.to(C)
    return GreedyResult(torch.tensor(indices, dtype=torch.int64), torch.tensor(gains, dtype=torch.float64))


def rank_saturated_at(chosen: Float[Tensor, "k d"], queries: Float[Tensor, "d r"]) -> int | None:
    """Number of first picks whose span holds `SATURATED` of the queries' energy, or None if all of them do not."""
    basis = queries.new_zeros(0, len(queries))
    target, captured = SATURATED * float(queries.square().sum()), 0.0
    for start in range(0, len(chosen), 64):
        rows = chosen[start : start + 64]
        norms = rows.norm(dim=1)
        for _ in range(2):
            rows = rows - (rows @ basis.T) @ basis
        directions, triangle = torch.linalg.qr(rows.T)
        independent = triangle.diagonal().abs() > 1e-6 * norms[: len(triangle.diagonal())]
        energies = (directions.T @ queries).square().sum(1) * independent
        reached = captured + energies.cumsum(0)
        if float(reached[-1]) >= target:
            return start + int((reached >= target).to(torch.uint8).argmax()) + 1
        captured = float(reached[-1])
        basis = torch.cat([basis, directions.T[independent]])
    return None


def max_objective(
    source: MatrixSource,
    problem: NormalizedProblem,
    k: int,
    objective: str,
    noise: float,
    of_pool: bool,
    partition: RowPartition,
) -> float | None:
    """What all rows together would reach; None where that cost a pass nobody asked for."""
    queries = problem.queries
    if objective == "projection":
        return problem.query_energy * float(queries.square().sum())
    if k < source.d and not of_pool:
        return None
    G = partition.all_reduce_sum(gram(source, problem.scale.dtype, problem.scale)) / noise  # XᵀX / σ²
    precision = G + torch.eye(len(G), dtype=torch.float64, device=G.device)
    unexplained, explained = (queries.T @ torch.linalg.solve(precision, each) for each in (queries, G @ queries))
    unexplained.diagonal().add_(noise)
    factor = torch.linalg.cholesky(unexplained)
    half = torch.linalg.solve_triangular(factor, explained, upper=False)
    shares = torch.linalg.eigvalsh(torch.linalg.solve_triangular(factor, half.T, upper=False))
    return 0.5 * float(shares.clamp(min=0).log1p().sum())  # no difference of two log det: much noise would drown it


def selection_notes(k: int, num_picks: int, saturated_at: int | None, max_tokens: int | None) -> list[str]:
    """What a reader of the record should know of how the picks ended."""
    notes = []
    if num_picks < k and max_tokens is not None:
        notes.append(f"{num_picks:,} rows of at most {k:,}: no other row fits what is left of {max_tokens:,} tokens.")
    elif num_picks < k:
        notes.append(
            f"{num_picks:,} of {k:,} picks hold all that this pool can tell about the queries without noise; "
            "none was added."
        )
    if saturated_at is not None and saturated_at < num_picks:
        notes.append(f"{saturated_at:,} of {num_picks:,} picks filled the span; the rest refine it.")
    return notes


def check_objective(objective: str, noise: float) -> None:
    """Raise unless the objective exists and goes with the noise.

    Raises:
        ValueError: If not.
    """
    check_choice("objective", objective, ("projection", "information"))
    check_number("noise", noise)
    if objective == "information" and noise == 0:
        raise ValueError("`noise` must be above 0 for the information, which is infinite without noise, got 0.")


def check_precision(precision: Float[Tensor, " n"], n: int) -> None:
    """Raise unless there is a weight for every row, and one of them above 0.

    Raises:
        TypeError: If `precision` is no tensor.
        ValueError: If a weight is wrong, or there are not `n`.
    """
    if not isinstance(precision, Tensor):
        raise TypeError(f"`precision` must be a tensor with one weight per row, got {brief(precision)}.")
    if precision.shape != (n,):
        raise ValueError(f"`precision` must hold one weight per row ({n}), got shape {tuple(precision.shape)}.")
    if not bool((precision.isfinite() & (precision >= 0)).all() and (precision > 0).any()):
        raise ValueError("`precision` must be finite, at least 0 and not all 0: rescale the weights to (0, 1].")


def _check_pursuit(pursuit: str, objective: str, precision: object) -> None:
    check_choice("pursuit", pursuit, ("orthogonal", "matching"))
    if pursuit == "matching" and (objective == "information" or precision is not None):
        raise ValueError(
            '`pursuit="matching"` must go with the projection and without `precision`, got '
            f"objective={objective!r}, precision {'given' if precision is not None else 'not given'}: "
            'use `pursuit="orthogonal"`.'
        )


def _checked_rows(features: Tensor | MatrixSource, precision: Float[Tensor, " n"] | None) -> MatrixSource:
    source = as_source("features", features)
    if precision is not None and source.n:  # a rank may have no row left
        check_precision(precision, source.n)
    return source


def _check_constraints(constraints: Constraints, n: int, k: int, has_noise: bool, has_all_rows: bool) -> None:
    if not isinstance(constraints, Constraints):
        raise TypeError(f"`constraints` must be `hf_gip.Constraints` or None, got {brief(constraints)}.")
    if not (has_noise and has_all_rows):
        raise ValueError(
            "`constraints` needs `noise` above 0 and no `prefilter`, which could leave out what a quota asks for: "
            "leave one of them out."
        )
    constraints.check(n, k)
