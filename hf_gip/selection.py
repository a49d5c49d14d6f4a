"""The value that flows from a selector to every door, and what it says about one row."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        blocked_reason: Why it was not allowed, where a constraint and not its gain kept it out.
    """

    row: int
    rank: int | None
    gain: float
    first_gain: float
    novelty: float
    served: tuple[tuple[int | str, float], ...]
    covered_by: tuple[tuple[int, float], ...]
    blocked_reason: str = ""

    def __str__(self) -> str:
        """The explanation in plain words."""
        if self.rank is not None:
            words = [f"Row {self.row:,} was pick {self.rank:,} and added {self.gain:.4g}"]
            words.append(f"({self.novelty:.0%} of it was new to the picks before).")
        else:
            words = [f"Row {self.row:,} was left out: after the last pick it would add {self.gain:.4g}"]
            words.append(f"(as the first pick {self.first_gain:.4g}; {self.novelty:.0%} of it is not in the picks).")
        if self.served:
            words.append("It serves " + ", ".join(f"{query_name(q)} ({share:.0%})" for q, share in self.served) + ".")
        words += [*self.covered_words(), *([self.blocked_reason] if self.blocked_reason else [])]
        return " ".join(words)

    def covered_words(self) -> list[str]:
        """The picks that took most of the row's gain away, as one sentence or none."""
        if not self.covered_by:
            return []
        return ["Covered by " + ", ".join(f"row {row:,} (−{lost:.3g})" for row, lost in self.covered_by) + "."]


def query_name(query: int | str) -> str:
    """A query in words."""
    return query if isinstance(query, str) else f"query {query}"


@runtime_checkable
class SelectionContext(Protocol):
    """What a door knows about a selection it made: the features it came from, and the rows."""

    def explain(self, selection: "Selection", row: int) -> Explanation:
        """Why the row was chosen or not."""
        ...

    def report(self, selection: "Selection", path: str | PathLike[str]) -> Path:
        """Write the page about the selection."""
        ...


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
        context: The features and rows it came from, where a door still knows them; not saved, not pickled.
    """

    indices: Int64[Tensor, " k"]
    gains: Float[Tensor, " k"]
    total: float | None = None
    weights: Float[Tensor, " k"] | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Float[Tensor, " k"]] = field(default_factory=dict)
    context: SelectionContext | None = field(default=None, repr=False, compare=False)

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

    def at(self, j: int) -> "Selection":
        """The first `j` picks: what the same call with k = j chooses, since greedy picks are nested.

        Raises:
            ValueError: If `j` is not between 1 and the number of picks, the picks were weighed together (GTP), or
                some were kept for groups that must have their rows.
        """
        if isinstance(j, bool) or not 1 <= j <= len(self):
            raise ValueError(f"`j` must be between 1 and the number of picks ({len(self)}), got {j!r}.")
        if self.weights is not None:
            raise ValueError(
                "`at` needs picks made one after another, got weights fitted jointly: select again with k=j."
            )
        if self.record.get("limits", {}).get("min_per_group") is not None:
            raise ValueError(
                "`at` needs picks that are the same for every k, got `min_per_group`, which keeps some for the end: "
                "select again with k=j."
            )
        curves = {name: curve[:j] for name, curve in self.curves.items()}
        return replace(self, indices=self.indices[:j], gains=self.gains[:j], curves=curves)

    def flattens_at(self) -> int:
        """The number of first picks after which each adds less than the average pick: where the curve flattens.

        It is where the curve of the objective is furthest above the straight line from nothing to all picks; advice
        for a smaller k, never taken in silence.
        """
        line = self.gains.mean() * (1 + torch.arange(len(self), dtype=torch.float64))
        return int((self.gains.cumsum(0) - line).argmax()) + 1

    def explain(self, row: int) -> Explanation:
        """Why `row` (a position in the pool) was chosen, or which picks made it redundant.

        Raises:
            TypeError: If `row` is no whole number.
            ValueError: If this selection no longer knows its features, as after loading it from the Hub.
        """
        check_row(row)
        if self.context is None:
            raise ValueError(
                "`explain` needs the features, which this selection does not hold: select again in this process, or "
                "use `hf_gip.explain(selection, row, features, queries)`."
            )
        return self.context.explain(self, row)

    def report(self, path: str | PathLike[str]) -> Path:
        """Write one self-contained HTML page: figures, pictures, a searchable table (needs `hf-gip[plot]`).

        Raises:
            ValueError: If this selection no longer knows its rows, as after loading it from the Hub.
        """
        if self.context is None:
            raise ValueError(
                "`report` needs the rows, which this selection does not hold: use `hf_gip.write_report(subset, path)`."
            )
        return self.context.report(self, path)

    def plot(self) -> "Figure":
        """The gains and the share captured, against the number of picks (needs `hf-gip[plot]`)."""
        from hf_gip.plots import plot_gains

        return plot_gains(self)


def check_row(row: object) -> None:
    """Raise unless `row` is a whole number.

    Raises:
        TypeError: If not.
    """
    if isinstance(row, bool) or not isinstance(row, int):
        raise TypeError(f"`row` must be a position in the pool, such as 0, got {' '.join(repr(row).split())[:80]}.")
