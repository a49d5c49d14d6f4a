"""GTP's rows as one pool, numbered through, whoever of several ranks holds them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.engine.ranks import Ranks, admit
from hf_gip.core.rows import Rows, SideBySide


@dataclass(frozen=True, slots=True)
class SharedRows:
    """Rows of all checkpoints side by side, a share of them here.

    Attributes:
        mine: The rows held here.
        ranks: Who holds the others; alone without a group.
    """

    mine: SideBySide
    ranks: Ranks

    @property
    def n(self) -> int:
        """Rows of all ranks."""
        return self.ranks.n

    @property
    def d(self) -> int:
        """How wide a row is."""
        return self.mine.d

    @property
    def wire(self) -> torch.device:
        """Where tensors must be to travel."""
        group = self.ranks.group
        return torch.device("cuda" if group is not None and dist.get_backend(group) == "nccl" else "cpu")

    def means(self) -> tuple[Float[Tensor, " d"], float]:
        """The mean row and the mean energy of a row, of all ranks.

        Raises:
            ValueError: If a row is not finite, on every rank.
        """
        try:
            mean, energy = self.mine.means()
        except ValueError as error:
            if self.ranks.group is not None:
                admit(str(error), self.ranks.group)
            raise
        if self.ranks.group is None:
            return mean, energy
        admit(None, self.ranks.group)
        both = torch.cat([mean, mean.new_tensor([energy])]) * self.mine.n
        both = self.ranks.total(both.to(self.wire)).cpu() / self.n
        return both[:-1], float(both[-1])

    def leading(
        self, scores: Float[Tensor, " n"], besides: Int64[Tensor, " s"], width: int
    ) -> tuple[Int64[Tensor, " f"], Float[Tensor, " f"]]:
        """The `width` rows of largest score besides some, the lower of equals first, and their scores.

        Args:
            scores: Of the rows held here.
            besides: Numbers of rows to leave out.
            width: How many at most.
        """
        scores = scores.clone()
        scores[self.ranks.mine(besides)] = -torch.inf
        order = torch.sort(scores, descending=True, stable=True).indices[:width]
        found = torch.stack([scores[order], (order + self.ranks.first).double()], dim=1)
        found = self.ranks.gather(found.to(self.wire), width).cpu()
        found = found[torch.sort(found[:, 0], descending=True, stable=True).indices[:width]]
        found = found[found[:, 0] > -torch.inf]
        return found[:, 1].long(), found[:, 0]

    def rows(self, numbers: Int64[Tensor, " k"]) -> Float[Tensor, "k d"]:
        """Rows in float64, (k, d), on the CPU of every rank."""
        if self.ranks.group is None:
            return self.mine.rows(numbers).cpu()
        here = (numbers >= self.ranks.first) & (numbers < self.ranks.first + self.mine.n)
        out = torch.zeros(len(numbers), self.d, dtype=torch.float64)
        out[here] = self.mine.rows(numbers[here] - self.ranks.first).cpu()
        return self.ranks.total(out.to(self.wire)).cpu()  # every row is zero on all ranks but one


@dataclass(frozen=True, slots=True)
class Share:
    """Consecutive rows of others, as `Rows`: what one rank looks at.

    Attributes:
        whole: All rows.
        first: Number of the first one.
        n: How many there are.
    """

    whole: Rows
    first: int
    n: int

    @property
    def d(self) -> int:
        """How wide a row is."""
        return self.whole.d

    @property
    def dtype(self) -> torch.dtype:
        """The rows' type."""
        return self.whole.dtype

    def rows(self, indices: Int64[Tensor, " k"]) -> Float[Tensor, "k d"]:
        """The rows at `indices`, in that order."""
        return self.whole.rows(indices + self.first)

    def chunks(self) -> Iterator[tuple[int, Float[Tensor, "c d"]]]:
        """Every row once, in order; of the others nothing is read where they are on disk."""
        for start, chunk in self.whole.chunks():
            begin, end = max(self.first - start, 0), min(self.first + self.n - start, len(chunk))
            if begin < end:
                yield start + begin - self.first, chunk[begin:end]
