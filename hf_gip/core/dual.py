"""GIP in its dual form: the scores themselves are what the rows should answer."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from hf_gip.core.checks import check_k, check_matrix
from hf_gip.core.engine.greedy import greedy
from hf_gip.core.engine.projection import Projection
from hf_gip.core.rows import MemoryRows, precision
from hf_gip.core.selection import Selection
from hf_gip.core.setting import row_mean


def gip_dual(features: Float[Tensor, "n d"], scores: Float[Tensor, "n s"], k: int, *, noise: float = 0.1) -> Selection:
    r"""Choose `k` rows by the paper's dual form, in which no query vector is built ([GIP](https://huggingface.co/papers/2603.13790)).

    What a query would have in common with each row, C = X Qᵀ, starts as the scores themselves, one column each, and
    every pick j takes from all rows what they share with it:

        j = argmax ‖Cᵢ‖² / (Dᵢ + σ²),  C ← C − a Cⱼ / √(Dⱼ + σ²),  D ← D − a²,  a = X Σ_S xⱼ / √(Dⱼ + σ²).

    Columns are brought to mean square 1, so that judges with other scales weigh alike, and are not centred: the gain
    squares C and does not see signs, so that after centring the worst rows would count as much as the best. Scores
    as precision (`gip`) choose better rows on real data; this form is here to compare with the paper. Cost and memory
    as for `gip` with s queries.

    Args:
        features: One row per example, (n, d).
        scores: One column per judge, at least 0, larger is better, NaN where a judge gave none (it then counts as
            the judge's mean), (n, s).
        k: How many rows to choose.
        noise: The ridge σ² in units of the mean ‖xᵢ‖², above 0.

    Returns:
        The picks in order. There is no `total`: scores need not lie in the rows' span.

    Raises:
        TypeError: If a matrix is no floating-point tensor.
        ValueError: If a shape or a value is wrong, or a score is negative.
    """
    check_matrix("features", features)
    check_k(k, len(features))
    if not (isinstance(noise, int | float) and math.isfinite(noise) and noise > 0):
        raise ValueError(f"`noise` must be a finite number above 0 for the dual form, got {noise!r}.")
    source = MemoryRows(features)
    row_energy, device = row_mean(source)
    columns = _columns(scores).to(device)
    scale = torch.full((source.n,), 1 / math.sqrt(row_energy), dtype=precision(features.dtype), device=device)
    picks = greedy(source, Projection(source, scale, None, k, float(noise), correlation=columns.to(scale.dtype)), k)
    parameters = {
        "k": k,
        "objective": "projection",
        "noise": noise,
        "pursuit": "dual",
        "sigma2": noise * row_energy,
        "dtype": str(scale.dtype).removeprefix("torch."),
    }
    return Selection(picks.indices, picks.gains, record={"method": "gip", "parameters": parameters, "notes": []})


def _columns(scores: Float[Tensor, "n s"]) -> Float[Tensor, "n s"]:
    """Scores of mean square 1, missing ones at their column's mean.

    Raises:
        ValueError: If a score is negative.
    """
    filled = torch.where(scores.isnan(), scores.nanmean(dim=0), scores).double()
    if float(filled.min()) < 0:
        raise ValueError(
            f"`scores` must be at least 0 as queries, got {float(filled.min()):g}: the projection does not see signs, "
            "so add a constant, or use them as precision."
        )
    return filled / filled.square().mean(dim=0).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
