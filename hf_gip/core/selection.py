"""The value that flows from a selector to every door."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int64
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows in the order a selector took them, with what each one added.

    Attributes:
        indices: Row positions in the features handed to the selector, in pick order, (k,), on the CPU.
        gains: Rise of the selector's objective at each pick, (k,), float64, on the CPU, in the objective's own unit.
        total: What the objective could reach at most (the queries' energy, the information of all rows), or None
            where no such figure exists.
        weights: Non-negative weight of each chosen row, (k,), where the method gives one (GTP), else None.
        record: Plain JSON values: method, parameters and, added by the doors, feature recipe, source and timings.
        curves: Per-pick figures besides the gains (e.g. `conflict` for SPICE), each (k,).
    """

    indices: Int64[Tensor, " k"]
    gains: Float[Tensor, " k"]
    total: float | None = None
    weights: Float[Tensor, " k"] | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Float[Tensor, " k"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def objective(self) -> float:
        """The objective's value for all picks: the sum of `gains`."""
        return float(self.gains.sum())

    @property
    def captured(self) -> float | None:
        """`objective` as a share of `total`, or None where no total is known."""
        return self.objective / self.total if self.total else None

    def plot(self) -> "Figure":
        """The gains and the share captured, against the number of picks (needs `hf-gip[plot]`)."""
        from hf_gip.pictures import plot_gains

        return plot_gains(self)
