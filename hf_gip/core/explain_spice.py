"""Why SPICE chose a row, or left it out: information, overlap and conflict."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hf_gip.core.explain import SHOWN, Explanation
from hf_gip.core.fisher import information
from hf_gip.core.lazy import conflict_of
from hf_gip.core.selection import Selection


@dataclass(frozen=True, slots=True)
class SpiceExplanation(Explanation):
    """What one row meant to SPICE: `gain` and `first_gain` in nats, `novelty` their ratio.

    Attributes:
        conflict: max(0, −cos) of the row's gradient and the mean of the picks before it (of all, if left out).
    """

    conflict: float = 0.0

    def __str__(self) -> str:
        """The explanation in plain words."""
        kept = f"{self.novelty:.0%} of the {self.first_gain:.4g} it holds by itself"
        if self.rank is not None:
            words = [f"Row {self.row:,} was pick {self.rank:,} and added {self.gain:.4g} nats, {kept}."]
        else:
            words = [f"Row {self.row:,} was left out: after the last pick it would add {self.gain:.4g} nats, {kept}."]
        words.append(f"Its conflict with the picks is {self.conflict:.3g}.")
        if self.covered_by:
            words.append("Covered by " + ", ".join(f"row {r:,} (−{lost:.3g})" for r, lost in self.covered_by) + ".")
        return " ".join(words)


def explain_pick(selection: Selection, row: int) -> SpiceExplanation:
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
    at = picks.index(row)
    gain, overlap, conflict = (
        float(values[at]) for values in (selection.gains, selection.curves["overlap"], selection.curves["conflict"])
    )
    return SpiceExplanation(row, at + 1, gain, gain - overlap, _share(gain, gain - overlap), (), (), conflict=conflict)


def explain_left_out(
    row: int, gradient: Float[Tensor, " d"], picks: list[int], chosen: Float[Tensor, "j d"], record: dict[str, object]
) -> SpiceExplanation:
    """Say what a row that was not chosen would add after the picks, and which of them took it away.

    Args:
        row: Position of the row in the pool.
        gradient: Its gradient, (d,).
        picks: Positions of the picks it competed with, in their order.
        chosen: Their gradients, (j, d).
        record: The selection's parameters: `alpha` and `fisher`.

    Returns:
        The explanation; O(j² d) in float64.
    """
    alpha = float(str(record["alpha"]))
    rows = torch.cat([chosen, gradient[None]]).double()
    state = information(record["fisher"], max(len(picks), 1), rows, alpha)  # pyright: ignore[reportArgumentType]
    energy = rows.square().sum(dim=1)
    gains = [math.log1p(alpha * float(energy[-1]))]
    for number in range(len(picks)):
        state.choose(rows[number], energy[number])
        energy = state.after_choice(rows, energy)
        gains.append(math.log1p(alpha * float(energy[-1])))
    lost = sorted(((gains[i] - gains[i + 1], pick) for i, pick in enumerate(picks)), reverse=True)
    total = rows[:-1].sum(dim=0)
    conflict = 0.0
    if picks:
        conflict = float(conflict_of(rows[-1] @ total, rows[-1].norm(), total.norm(), len(picks)))
    covered = tuple((pick, loss) for loss, pick in lost[:SHOWN] if loss > 0)
    return SpiceExplanation(
        row, None, gains[-1], gains[0], _share(gains[-1], gains[0]), (), covered, conflict=conflict
    )


def _share(gain: float, alone: float) -> float:
    return min(1.0, max(0.0, gain / alone)) if alone > 0 else 0.0
