"""Which rows stand for election: sub-pools of a huge pool, and rows that may not come twice."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Rotation:
    """Candidates of each round.

    Attributes:
        rows: Rows of the pool.
        reuse: Whether a row may be chosen again before every other one was.
        sample: Candidates drawn at random for a round, None for all.
        seed: Of that draw; the epoch is mixed in. The global generators are never asked.
    """

    rows: int
    reuse: bool
    sample: int | None
    seed: int

    def __post_init__(self) -> None:
        self.used = torch.zeros(self.rows, dtype=torch.bool)

    def candidates(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Rows to choose from first, and rows to fall back on when those are too few."""
        first = torch.nonzero(~self.used).flatten()
        second = torch.nonzero(self.used).flatten()
        return self._draw(first, epoch), self._draw(second, epoch)

    def mark(self, rows: Tensor) -> None:
        """Note the rows of a round; where it had to fall back, the count begins anew with the rows that came twice."""
        if self.reuse:
            return
        again = rows[self.used[rows]]
        if len(again):
            self.used.zero_()
            rows = again
        self.used[rows] = True

    def shuffled(self) -> Tensor:
        """All rows in a random order of their own."""
        return torch.randperm(self.rows, generator=torch.Generator().manual_seed(self.seed))

    def _draw(self, rows: Tensor, epoch: int) -> Tensor:
        if self.sample is None or len(rows) <= self.sample:
            return rows
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return rows[torch.randperm(len(rows), generator=generator)[: self.sample]].sort().values
