"""SPICE as its paper runs it: a share of every window of rows, from the window's own Gram matrix."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from hf_gip.core.fisher import Fisher
from hf_gip.core.lazy import Picks, Rule, conflict_of

BYTES_AT_ONCE = 1 << 26  # of window rows and Gram matrices in work at a time


def quotas(n: int, k: int, window: int) -> Int64[Tensor, " w"]:
    """How many of `k` each window of `window` rows gives: shares of its rows, rounded so that they add up to k."""
    ends = torch.arange(window, n + window, window).clamp_max_(n)
    shares = ends * k // n
    return torch.diff(shares, prepend=shares.new_zeros(1))


def greedy_in_windows(gradients: Float[Tensor, "n d"], k: int, rule: Rule, fisher: Fisher, window: int) -> list[Picks]:
    """One greedy per window of consecutive rows, many windows side by side, O(n (window + k/n·window) d)."""
    n, d = gradients.shape
    window = min(window, n)
    share = quotas(n, k, window).to(gradients.device)
    working = torch.float64 if gradients.dtype == torch.float64 else torch.float32
    together = max(1, BYTES_AT_ONCE // (8 * window * (d + window)))
    picks: list[Picks] = []
    for first in range(0, len(share), together):
        some = share[first : first + together]
        rows = gradients[first * window : (first + len(some)) * window].to(working)
        missing = len(some) * window - len(rows)  # the last window may be short
        padded = torch.cat([rows, rows.new_zeros(missing, d)]).view(len(some), window, d)
        free = (torch.arange(len(some) * window, device=rows.device) < len(rows)).view(len(some), window)
        picks += WindowGreedy(padded, free, some, rule, fisher).run(first * window)
    return picks


class WindowGreedy:
    """The greedy of several windows in step: choice t of every window at once."""

    def __init__(
        self,
        rows: Float[Tensor, "w r d"],
        free: Bool[Tensor, "w r"],
        quota: Int64[Tensor, " w"],
        rule: Rule,
        fisher: Fisher,
    ) -> None:
        self.gram = (rows @ rows.mT).double()
        self.free, self.quota, self.rule, self.fisher = free.clone(), quota, rule, fisher
        self.energy = torch.diagonal(self.gram, dim1=1, dim2=2).clone()
        self.norm = self.energy.sqrt()
        self.alignment = torch.zeros_like(self.energy)  # g·Σ_S g
        self.total = torch.zeros_like(quota, dtype=torch.float64)  # ‖Σ_S g‖²
        self.columns: list[Tensor] = []  # of the partial Cholesky factor
        self.rows = rows if fisher != "full" else rows[:, :0]
        self.denominator = torch.ones_like(rows[:, 0], dtype=torch.float64)

    def run(self, first: int) -> list[Picks]:
        """Choose each window's quota; row positions count from `first`."""
        w, window = self.energy.shape
        picks = [Picks(evaluations=window) for _ in range(w)]
        going = self.quota > 0
        started = self.energy.new_zeros(w)
        for step in range(int(self.quota.max())):
            gain = torch.log1p(self.rule.alpha * self.energy)
            conflict = conflict_of(self.alignment, self.norm, self.total.clamp_min(0).sqrt()[:, None], step)
            score = (gain - self.rule.penalty * conflict).masked_fill(~self.free, -torch.inf)
            best = score.argmax(dim=1, keepdim=True)
            taken = gain.gather(1, best)[:, 0]
            if step == 0:
                started = taken
            spent = torch.zeros_like(going)
            if step and self.rule.stop_ratio is not None:
                spent = going & (step < self.quota) & (taken <= self.rule.stop_ratio * started)
            going = going & (step < self.quota) & ~spent
            clash = conflict.gather(1, best)[:, 0]
            for i, (row, add, against, on, done) in enumerate(
                zip(best[:, 0].tolist(), taken.tolist(), clash.tolist(), going.tolist(), spent.tolist(), strict=True)
            ):
                picks[i].stopped |= done
                if on:
                    picks[i].rows.append(first + i * window + row)
                    picks[i].gains.append(add)
                    picks[i].conflicts.append(against)
            self.choose(best, step)
        return picks

    def choose(self, best: Int64[Tensor, "w 1"], step: int) -> None:
        """Add row `best` of each window to its S."""
        across = best[:, None].expand(-1, self.gram.shape[1], -1)
        column = self.gram.gather(2, across)[..., 0]
        self.total += 2 * self.alignment.gather(1, best)[:, 0] + column.gather(1, best)[:, 0]
        self.alignment += column
        self.free.scatter_(1, best, value=False)
        if self.fisher == "full":
            self.downdate(column, best)
        else:
            self.widen(best)

    def downdate(self, column: Float[Tensor, "w r"], best: Int64[Tensor, "w 1"]) -> None:
        """Subtract a² from v, a the next column of the pivoted Cholesky factor of Gram + I/α off its diagonal."""
        for known in self.columns:
            column = column - known * known.gather(1, best)
        column = column / torch.sqrt(self.energy.gather(1, best) + 1 / self.rule.alpha)
        self.columns.append(column)
        self.energy = (self.energy - column.square()).clamp_min_(0)

    def widen(self, best: Int64[Tensor, "w 1"]) -> None:
        """Add α g^power to the denominators and sum g²/den afresh."""
        power = 4 if self.fisher == "diagonal_g4" else 2
        chosen = self.rows.gather(1, best[..., None].expand(-1, -1, self.rows.shape[2]))[:, 0]
        self.denominator += self.rule.alpha * chosen.double() ** power
        inverse = self.denominator.reciprocal().to(self.rows.dtype)
        self.energy = (self.rows.square() @ inverse[..., None])[..., 0].double()
