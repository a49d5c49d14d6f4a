"""What the limits of a selection still allow while picks are made."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.limits import Limits


class Anyone:
    """No limits."""

    def rank(self, gain: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Rows are ranked by their gain."""
        return gain

    def width(self, width: int) -> int:
        """As many as the engine likes."""
        return width

    def reach(self, rows: Int64[Tensor, " b"]) -> int:
        """All picks are allowed."""
        return len(rows)

    def take(self, rows: Int64[Tensor, " b"]) -> None:
        """Nothing to count."""


class Ledger(Anyone):
    """Who may still be picked. A row is barred once its tokens exceed its group's `ceiling`, which only ever falls.

    The ceiling of group g is the tokens left, less the reserve for the rows that groups still need, plus the dearest
    row that g itself has in that reserve (any row of g may stand in for it). It is −1 for a group that is full, and
    for one that needs no more once all picks left are needed elsewhere.
    """

    def __init__(self, limits: Limits, n: int, k: int, device: torch.device, *, log: bool) -> None:
        self.left, self.budget, self.log = k, limits.budget, log
        self.given = limits.given().tolist()  # still to come
        groups = torch.zeros(n, dtype=torch.int64) if limits.groups is None else limits.groups
        counts = limits.counts(limits.given())
        self.room = (torch.full_like(counts, n) if limits.max_per_group is None else limits.max_per_group) - counts
        self.need = limits.needed(counts)
        self.reserve = limits.cheapest(self.need)
        tokens = torch.zeros(n, dtype=torch.int64) if limits.tokens is None else limits.tokens
        self.of_row, self.cost_of_row = groups, tokens  # on the CPU, to look single rows up
        self.groups, self.tokens = groups.to(device), tokens.to(device, torch.float64)
        self.left -= len(limits.given())
        if self.budget is not None:
            self.budget -= int(tokens[limits.given()].sum())
        self.ceiling = self._ceiling()

    def rank(self, gain: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """What rows are ranked by: the gain per token where there is a budget; −∞ for rows that are not allowed."""
        if self.given:  # the next given row, whatever it adds
            return torch.full_like(gain, -torch.inf).index_fill_(0, self._at(self.given[:1]), 1.0)
        barred = (self.tokens > self.ceiling[self.groups]) | (gain == -torch.inf)
        if self.budget is not None:
            gain = (gain.clamp(min=0).log1p() if self.log else gain) / self.tokens.to(gain.dtype)
        return gain.masked_fill(barred, -torch.inf)

    def width(self, width: int) -> int:
        """How many picks may be drafted at once: ranks that are no plain gains are good for one."""
        return 1 if self.given or self.budget is not None else width

    def reach(self, rows: Int64[Tensor, " b"]) -> int:
        """How many of these picks, in this order, are allowed.

        That is all a block needs: its picks are then the best of all rows, hence of those that are allowed.
        """
        if self.given:
            return len(rows)
        twin = object.__new__(Ledger)
        twin.__dict__.update(self.__dict__)
        twin.room, twin.need, twin.reserve = (
            self.room.clone(),
            self.need.clone(),
            [list(part) for part in self.reserve],
        )
        for count, row in enumerate(rows.tolist()):
            if int(self.cost_of_row[row]) > float(twin.ceiling[int(self.of_row[row])]):
                return count
            twin._count(row)
            twin.ceiling = twin._ceiling()
        return len(rows)

    def take(self, rows: Int64[Tensor, " b"]) -> None:
        """Count these picks."""
        if self.given:  # these were counted from the start
            self.given = self.given[len(rows) :]
            return
        for row in rows.tolist():
            self._count(row)
        self.ceiling = self._ceiling()

    def _count(self, row: int) -> None:
        group, tokens = int(self.of_row[row]), int(self.cost_of_row[row])
        self.left -= 1
        self.room[group] -= 1
        self.need[group] = max(0, int(self.need[group]) - 1)
        if reserve := self.reserve[group]:
            reserve.remove(tokens if tokens <= reserve[-1] else reserve[-1])
        if self.budget is not None:
            self.budget -= tokens

    def _at(self, rows: Sequence[int]) -> Tensor:
        return torch.tensor(rows, device=self.tokens.device)

    def _ceiling(self) -> Float[Tensor, " g"]:
        if self.budget is None:
            ceiling = torch.full((len(self.need),), torch.inf, dtype=torch.float64)
        else:
            dearest = torch.tensor([tokens[-1] if tokens else 0 for tokens in self.reserve], dtype=torch.float64)
            ceiling = dearest + (self.budget - sum(map(sum, self.reserve)))
        shut = self.room <= 0
        if int(self.need.sum()) >= self.left:
            shut |= self.need == 0
        return ceiling.masked_fill(shut, -1.0).to(self.tokens.device)
