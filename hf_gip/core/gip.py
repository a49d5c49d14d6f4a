"""Greedy Information Projection: choose rows whose span answers the queries."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hf_gip.core.checks import check_k, check_matrix
from hf_gip.core.engine.greedy import greedy
from hf_gip.core.engine.loop import match
from hf_gip.core.engine.objectives import Information, Projection
from hf_gip.core.rows import MemoryRows
from hf_gip.core.selection import Selection

FULL = 0.999  # share of the queries' energy from which the picks' span counts as full


def gip(
    features: Float[Tensor, "n d"],
    queries: Float[Tensor, "m d"] | None,
    k: int,
    *,
    objective: Literal["projection", "information"] = "projection",
    noise: float = 0.1,
    precision: Float[Tensor, " n"] | None = None,
    pursuit: Literal["orthogonal", "matching"] = "orthogonal",
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

    Args:
        features: One row per example, (n, d).
        queries: What the chosen rows should be able to express, (m, d); None means the features themselves.
        k: How many rows to choose.
        objective: What is maximised.
        noise: Noise on rows and queries as a share of their mean energy. 0 is the plain projection.
        precision: How far each row is to be trusted, wᵢ ≥ 0, (n,): its noise is σ²/wᵢ². None means 1 for all.
        pursuit: `"orthogonal"` revises the whole projection at each pick; `"matching"` is plain matching pursuit: a
            pick takes its own share ‖Rxᵢ‖² / ‖xᵢ‖² of the residual R and stays as it is (no noise, no precision).

    Returns:
        The picks in order; `total` is tr(Q Qᵀ), or for the information that of the whole pool where it costs no more
        than the picks (k ≥ d, or no queries). Fewer than `k` with `noise=0` only, once nothing is left to gain;
        `record["notes"]` then says so.

    Raises:
        TypeError: If a matrix is no floating-point tensor.
        ValueError: If a shape, a value or a name is wrong, or the features or the queries are all zero.
    """
    check_names(objective, pursuit, noise, precision)
    check_matrix("features", features)
    check_k(k, len(features))
    setting = _prepare(features, queries, noise, precision)
    source = MemoryRows(features)
    if pursuit == "matching":
        picks = match(features, setting.scale, setting.queries, k)
    elif objective == "projection":
        picks = greedy(source, Projection(source, setting.scale, setting.queries, k, float(noise)), k)
    else:
        state = Information(source, setting.scale, _whiten(setting.queries, noise), k, float(noise))
        picks = greedy(source, state, k)
    gains = picks.gains * (setting.query_energy if objective == "projection" else 1.0)
    chosen = features[picks.indices.to(features.device)].double() / math.sqrt(setting.row_energy)
    full_at = _span_full_at(chosen, setting.queries)
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
        "notes": _notes(k, len(gains), full_at),
    }
    total = _total(features, setting, k, objective, noise, queries is None)
    return Selection(picks.indices, gains, total=total, record=record)


@dataclass(frozen=True, slots=True)
class _Setting:
    """The problem in its own units: rows of mean energy one (before precision), queries of mean energy one."""

    scale: Float[Tensor, " n"]  # wᵢ / √mean‖x‖²: row i enters as scale[i] · features[i]
    queries: Float[Tensor, "d r"]  # columns, orthogonal, float64
    row_energy: float  # mean ‖xᵢ‖²
    query_energy: float  # mean ‖qⱼ‖²


def _prepare(
    features: Float[Tensor, "n d"],
    queries: Float[Tensor, "m d"] | None,
    noise: float,
    precision: Float[Tensor, " n"] | None,
) -> _Setting:
    work = torch.float64 if features.dtype == torch.float64 else torch.float32
    row_energy = _mean_energy("features", features)
    if queries is None:
        query_energy = row_energy
        columns = _compress(features.to(work) / math.sqrt(row_energy))
    else:
        check_matrix("queries", queries, features.shape[1])
        query_energy = _mean_energy("queries", queries)
        columns = _compress(queries.double() / math.sqrt(query_energy)).to(features.device)
    weight = torch.ones(len(features), dtype=torch.float64, device=features.device)
    if precision is not None:
        if precision.shape != (len(features),):
            raise ValueError(
                f"`precision` must hold one weight per row ({len(features)}), got shape {tuple(precision.shape)}."
            )
        weight = precision.double().to(features.device)
    return _Setting((weight / math.sqrt(row_energy)).to(work), columns, row_energy, query_energy)


def _mean_energy(name: str, matrix: Float[Tensor, "n d"]) -> float:
    energy = float(torch.linalg.vector_norm(matrix, dim=1, dtype=torch.float64).square().mean())
    if energy == 0:
        raise ValueError(f"`{name}` must hold at least one row that is not zero, got {len(matrix)} zero row(s).")
    return energy


def _compress(queries: Float[Tensor, "m d"]) -> Float[Tensor, "d r"]:
    """Orthogonal columns with the same Gram matrix on the feature side, Q'Q'ᵀ = QᵀQ; r = rank."""
    m, d = queries.shape
    if m < d:
        energies, rotation = torch.linalg.eigh((queries @ queries.T).double())
        columns = queries.T.double() @ rotation
    else:
        energies, rotation = torch.linalg.eigh((queries.T @ queries).double())
        columns = rotation * energies.clamp(min=0).sqrt()
    kept = energies > energies[-1] * (1e-13 if queries.dtype == torch.float64 else 1e-8)
    return columns[:, kept]


def _whiten(queries: Float[Tensor, "d r"], noise: float) -> Float[Tensor, "d r"]:
    """W with I − WWᵀ the covariance once the queries are known: Q (QᵀQ + τ²I)^(−½) for orthogonal columns."""
    return queries / (queries.square().sum(0) + noise).sqrt()


def _span_full_at(chosen: Float[Tensor, "k d"], queries: Float[Tensor, "d r"]) -> int | None:
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


def _total(
    features: Float[Tensor, "n d"], setting: _Setting, k: int, objective: str, noise: float, own: bool
) -> float | None:
    if objective == "projection":
        return setting.query_energy * float(setting.queries.square().sum())
    d = features.shape[1]
    if k < d and not own:
        return None
    rows = features.to(setting.scale.dtype) * setting.scale[:, None]
    known = (rows.T @ rows).double() / noise + torch.eye(d, dtype=torch.float64, device=features.device)
    left = setting.queries.T @ torch.linalg.solve(known, setting.queries)
    unit = torch.eye(len(left), dtype=torch.float64, device=features.device)
    prior = torch.linalg.slogdet(setting.queries.T @ setting.queries / noise + unit)[1]
    return 0.5 * float(prior - torch.linalg.slogdet(left / noise + unit)[1])


def check_names(objective: str, pursuit: str, noise: float, precision: Float[Tensor, " n"] | None) -> None:
    """Raise unless the options exist and go together.

    Raises:
        ValueError: If not; the message says which.
    """
    if objective not in ("projection", "information"):
        raise ValueError(f'`objective` must be "projection" or "information", got {objective!r}.')
    if pursuit not in ("orthogonal", "matching"):
        raise ValueError(f'`pursuit` must be "orthogonal" or "matching", got {pursuit!r}.')
    if not (isinstance(noise, int | float) and math.isfinite(noise) and noise >= 0):
        raise ValueError(f"`noise` must be a finite number of at least 0, got {noise!r}.")
    if objective == "information" and noise == 0:
        raise ValueError("`noise` must be above 0 for the information, which is infinite without noise, got 0.")
    if pursuit == "matching" and (objective == "information" or precision is not None):
        raise ValueError(
            '`pursuit="matching"` must go with the projection and without `precision`, got '
            f"objective={objective!r}, precision {'given' if precision is not None else 'not given'}: "
            'use `pursuit="orthogonal"`.'
        )
    if precision is not None and not bool((precision.isfinite() & (precision >= 0)).all() and (precision > 0).any()):
        raise ValueError("`precision` must be finite, at least 0 and not all 0: rescale the weights to (0, 1].")


def _notes(k: int, taken: int, full_at: int | None) -> list[str]:
    notes = []
    if taken < k:
        notes.append(
            f"{taken:,} of {k:,} picks hold all that this pool can tell about the queries without noise; "
            "none was added."
        )
    if full_at is not None and full_at < taken:
        notes.append(f"{full_at:,} of {taken:,} picks filled the span; the rest refine it.")
    return notes
