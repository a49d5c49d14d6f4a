"""Greedy Information Projection: choose rows whose span answers the queries."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.captured import most, notes, span_full_at
from hf_gip.core.checks import check_k, check_run
from hf_gip.core.engine.greedy import greedy
from hf_gip.core.engine.information import Information
from hf_gip.core.engine.ledger import Ledger
from hf_gip.core.engine.loop import match
from hf_gip.core.engine.projection import Projection
from hf_gip.core.engine.ranks import Ranks, admit, agree, fingerprint, shared
from hf_gip.core.engine.shortlist import ratio
from hf_gip.core.gip_checks import check_limits, check_names, check_precision, check_prefilter
from hf_gip.core.limits import Limits
from hf_gip.core.rows import MemoryRows, Rows, check_rows
from hf_gip.core.selection import Selection
from hf_gip.core.setting import prepare


def gip(
    features: Float[Tensor, "n d"] | Rows,
    queries: Float[Tensor, "m d"] | None,
    k: int,
    *,
    objective: Literal["projection", "information"] = "projection",
    noise: float = 0.1,
    precision: Float[Tensor, " n"] | None = None,
    pursuit: Literal["orthogonal", "matching"] = "orthogonal",
    prefilter: int | None = None,
    limits: Limits | None = None,
    group: dist.ProcessGroup | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Selection:
    r"""Choose `k` rows that hold most of what the queries ask for.

    Queries and rows are read through noise, yⱼ = qⱼᵀg + τ·ε and zᵢ = xᵢᵀg + (σ/wᵢ)·ε with g ~ N(0, I)
    ([GIP](https://huggingface.co/papers/2603.13790)). With Σ_S = (I + X_Sᵀ W_S² X_S / σ²)⁻¹, what g may still be once
    the rows S are known, the two objectives are

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
            `hf_gip.features.files.npy_rows(path)`, which are read in order once per block.
        queries: What the chosen rows should be able to express, (m, d); None means the features themselves.
        k: How many rows to choose.
        objective: What is maximised.
        noise: Noise on rows and queries as a share of their mean energy. 0 is the plain projection.
        precision: How far each row is to be trusted, wᵢ ≥ 0, (n,): its noise is σ²/wᵢ². None means 1 for all.
        pursuit: `"orthogonal"` revises the whole projection at each pick; `"matching"` is plain matching pursuit: a
            pick takes its own share ‖Rxᵢ‖² / ‖xᵢ‖² of the residual R and stays as it is (no noise, no precision).
        prefilter: An approximation for huge pools, in rows: only this many rows with the largest first gains are
            candidates. `record["prefilter"]` holds the first gain of the last row kept and of the first row cut.
        limits: Rows given from the start, quotas per group, a budget of tokens (`hf_gip.core.limits.Limits`); each
            pick is the best row that is still allowed. A budget, and each given row, costs one pass per pick.
        group: Processes that share the rows (`torch.distributed.group.WORLD` under `torchrun`): `features` and
            `precision` are then this rank's share, rows are numbered through in rank order, and every rank returns
            the whole selection. A block of picks costs one gather of its shortlist and one reduction. A rank that
            ends makes the others fail; one that hangs does so within the group's `timeout`.
        progress: Called after each pass with the number of picks and of passes so far.

    Returns:
        The picks in order, given rows first; `total` is tr(Q Qᵀ), or for the information that of the whole pool
        where it costs no more than the picks (k ≥ d, or no queries). Fewer than `k` with `noise=0`, once nothing is
        left to gain, and where a budget is spent; `record["notes"]` then says so.

    Raises:
        TypeError: If a matrix is no floating-point tensor.
        ValueError: If a shape, a value or a name is wrong, the features or the queries are all zero, or ranks
            disagree.
    """
    check_names(objective, pursuit, noise, precision)
    check_run(group, progress)
    source = _share(features, pursuit, precision, group)
    if group is not None:
        if pursuit == "matching" or prefilter is not None or limits is not None:
            raise ValueError("`group` must go without `pursuit`, `prefilter` and `limits`: select in one process.")
        told = {"k": k, "objective": objective, "noise": noise, "width": source.d, "dtype": str(source.dtype)}
        agree({**told, "queries": fingerprint(queries)}, group)
    ranks = shared(source.n, group)
    check_k(k, ranks.n)
    if prefilter is not None:
        check_prefilter(prefilter, k, source.n)
    if limits is not None:
        check_limits(limits, source.n, k, noise, prefilter is None and pursuit == "orthogonal")
    setting = prepare(source, queries, noise, precision, ranks)
    work = _Work(source, setting.scale, setting.queries, k, float(noise), objective)
    kept, cut = None, None
    if prefilter is not None:
        kept, cut = _strongest(work, prefilter)
        work = replace(work, source=MemoryRows(source.rows(kept)), scale=setting.scale[kept])
    if isinstance(features, Tensor) and pursuit == "matching":
        inside = features if kept is None else features[kept]
        picks = match(inside, work.scale, setting.queries, k)
    else:
        state = work.state()
        told = {"log": objective == "information"}
        ledger = None if limits is None else Ledger(limits, source.n, k, setting.scale.device, **told)
        inside = ranks if kept is None else None
        picks = greedy(work.source, state, k, ledger=ledger, ranks=inside, progress=progress)
    indices = picks.indices if kept is None else kept.cpu()[picks.indices]
    gains = picks.gains * (setting.query_energy if objective == "projection" else 1.0)
    chosen = _chosen(source, indices, ranks) / math.sqrt(setting.row_energy)
    full_at = span_full_at(chosen, setting.queries)
    record = {
        "method": "gip",
        "parameters": {
            "k": k,
            "objective": objective,
            "noise": noise,
            "pursuit": pursuit,
            "precision": precision is not None,
            "sigma2": noise * setting.row_energy,
            "tau2": noise * setting.query_energy,
            "query_rank": setting.queries.shape[1],
            "dtype": str(setting.scale.dtype).removeprefix("torch."),
        },
        "span_full_at": full_at,
        "notes": notes(k, len(gains), full_at, budget=None if limits is None else limits.budget),
    }
    if cut is not None:
        record["prefilter"] = cut
    total = most(source, setting, k, objective, noise, queries is None, ranks)
    return Selection(indices, gains, total=total, record=record)


@dataclass(frozen=True, slots=True)
class _Work:
    """What the engine is to solve."""

    source: Rows
    scale: Float[Tensor, " n"]
    queries: Float[Tensor, "d r"]
    k: int
    noise: float
    objective: str

    def state(self) -> Projection | Information:
        if self.objective == "projection":
            return Projection(self.source, self.scale, self.queries, self.k, self.noise)
        return Information(self.source, self.scale, _whiten(self.queries, self.noise), self.k, self.noise)


def _rows(features: Float[Tensor, "n d"] | Rows, pursuit: str, precision: Float[Tensor, " n"] | None) -> Rows:
    n, _ = check_rows("features", features)
    if precision is not None:
        check_precision(precision, n)
    if isinstance(features, Tensor):
        return MemoryRows(features)
    if pursuit == "matching":
        raise ValueError('`features` must be a tensor for `pursuit="matching"`, got rows elsewhere: load them.')
    return features


def _share(
    features: Float[Tensor, "n d"] | Rows,
    pursuit: str,
    precision: Float[Tensor, " n"] | None,
    group: dist.ProcessGroup | None,
) -> Rows:
    """This rank's rows; all ranks end with the one whose rows or weights cannot be used.

    Raises:
        TypeError: If they are no floating-point tensor.
        ValueError: If they are no finite matrix.
    """
    if group is None:
        return _rows(features, pursuit, precision)
    try:
        source = _rows(features, pursuit, precision)
    except (TypeError, ValueError) as error:
        admit(str(error), group)
        raise
    admit(None, group)
    return source


def _chosen(source: Rows, indices: Int64[Tensor, " k"], ranks: Ranks) -> Float[Tensor, "k d"]:
    """The rows `indices`, whoever holds them, in float64."""
    if ranks.group is None:
        return source.rows(indices).double()
    here = (indices >= ranks.first) & (indices < ranks.first + source.n)
    mine = source.rows(indices[here] - ranks.first).double()
    out = mine.new_zeros(len(indices), source.d)
    out[here.to(out.device)] = mine
    return ranks.total(out)


def _strongest(work: _Work, size: int) -> tuple[Int64[Tensor, " p"], dict[str, float | int | None]]:
    """The rows with the largest first gains, in their order, and what was cut."""
    state = work.state()
    first = ratio(state.top, state.bottom, state.floor)
    gains, order = first.sort(descending=True, stable=True)
    cut = {
        "kept": size,
        "last_kept": float(gains[size - 1]),
        "first_cut": float(gains[size]) if size < len(gains) else None,
    }
    return order[:size].sort().values, cut


def _whiten(queries: Float[Tensor, "d r"], noise: float) -> Float[Tensor, "d r"]:
    """W with I − WWᵀ the covariance once the queries are known: Q (QᵀQ + τ²I)^(−½) for orthogonal columns."""
    return queries / (queries.square().sum(0) + noise).sqrt()
