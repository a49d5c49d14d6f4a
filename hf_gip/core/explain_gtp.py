"""Why GTP chose a row, or left it out: what it matches, and what the other rows match in its place."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hf_gip.core.explain import SHOWN, Explanation
from hf_gip.core.selection import Selection

ROUNDING = 1e-12  # a row's own energy beside the picks is told from none above this share of the picks' largest


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
        if self.covered_by:
            words.append("Covered by " + ", ".join(f"row {r:,} (−{taken:.3g})" for r, taken in self.covered_by) + ".")
        return " ".join(words)


def explain_match(
    selection: Selection,
    row: int,
    values: Float[Tensor, " d"],
    chosen: Float[Tensor, "k d"],
    goals: Float[Tensor, "m d"],
) -> GtpExplanation:
    """Say what a row matches of the targets, and which picks match it in its place.

    Args:
        selection: What `gtp` chose.
        row: Position of the row in the pool.
        values: aᵢ, its gradients side by side, each times √η of its checkpoint, (d,).
        chosen: Those of the picks in their order, (k, d).
        goals: The targets, likewise, (m, d).

    Returns:
        The explanation; O(k² d + k³) in float64.
    """
    picks = selection.indices.tolist()
    weights = _weights(selection)
    a, A, b = values.double(), chosen.double(), goals.double()
    energy = float(a @ a)
    rank = picks.index(row) + 1 if row in picks else None
    others = torch.tensor([pick != row for pick in picks], dtype=torch.bool)
    left = b - weights @ A
    own = _beside(a, A[others & (weights > 0).any(0)])
    alone = _fall(b @ a, energy)
    matched = (weights * (A @ a)).sum(0)
    ranked = sorted(((float(matched[i]), picks[i]) for i in torch.nonzero(others)[:, 0].tolist()), reverse=True)
    covered = tuple((pick, taken) for taken, pick in ranked[:SHOWN] if taken > 0)
    novelty = own / energy if energy else 0.0
    if rank is None:
        return GtpExplanation(row, None, _fall(left @ a, energy), alone, novelty, (), covered)
    weight = weights[:, rank - 1]
    lost = sum(
        0.5 * float(w) ** 2 * _beside(a, A[others & (each > 0)]) for w, each in zip(weight, weights, strict=True)
    )
    gain, total = float(selection.gains[rank - 1]), float(weight.sum())
    return GtpExplanation(row, rank, gain, alone, novelty, (), covered, weight=total, loss_without=lost)


def _weights(selection: Selection) -> Float[Tensor, "m k"]:
    """Weights for each target."""
    assert selection.weights is not None
    names = [name for name in selection.curves if name.startswith("weight_")]
    names.sort(key=lambda name: int(name.removeprefix("weight_")))
    return torch.stack([selection.curves[name] for name in names] or [selection.weights]).double()


def _fall(correlations: Float[Tensor, " m"], energy: float) -> float:
    """What a row lowers the loss by with its best weight for each target."""
    return 0.5 * float(correlations.clamp(min=0).square().sum()) / energy if energy else 0.0


def _beside(a: Float[Tensor, " d"], rows: Float[Tensor, "p d"]) -> float:
    """Energy of `a` outside the span of `rows`: 1 / (G⁻¹)ᵢᵢ of all of them."""
    if not len(rows):
        return float(a @ a)
    basis, sizes, _ = torch.linalg.svd(rows.T, full_matrices=False)
    basis = basis[:, sizes > ROUNDING * sizes[0]]
    for _ in range(2):
        a = a - basis @ (basis.T @ a)
    return float(a @ a)
