"""SPICE over a whole pool: greedy with stale upper bounds, exact because information only ever falls."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.fisher import Fisher, Information, information

SHORTLIST = 256  # rows first brought up to date together; doubles and halves with what it buys
BLOCK = 64  # choices at most before the shortlist is drawn anew
TINY = 1e-8  # keeps the cosine defined, as in the paper


@dataclass(frozen=True)
class Rule:
    """The score log(1 + αv) − penalty · conflict, and when to stop."""

    alpha: float
    penalty: float
    stop_ratio: float | None


@dataclass
class Picks:
    """What each choice was and brought; `evaluations` counts rows brought up to date."""

    rows: list[int] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)
    conflicts: list[float] = field(default_factory=list)
    evaluations: int = 0
    stopped: bool = False


def conflict_of(
    alignment: Float[Tensor, "*m"], norm: Float[Tensor, "*m"], total_norm: Tensor, chosen: int | Int64[Tensor, "*m"]
) -> Float[Tensor, "*m"]:
    """max(0, −cos(g, ḡ_S)), from alignment = g·Σ_S g and |S| rows `chosen`; zero while nothing is chosen."""
    return (-alignment / (norm * total_norm + TINY * chosen).clamp_min(1e-300)).clamp_min_(0)


class LazyGreedy:
    """One run. `bound` holds each row's latest information gain, which can only overstate its gain now."""

    def __init__(self, gradients: Float[Tensor, "n d"], k: int, rule: Rule, fisher: Fisher) -> None:
        self.gradients, self.k, self.rule = gradients, k, rule
        self.working = torch.float64 if gradients.dtype == torch.float64 else torch.float32
        like = gradients[:1].to(self.working)
        self.information: Information = information(fisher, k, like, rule.alpha)
        self.energy = torch.linalg.vector_norm(gradients, dim=1, dtype=torch.float64).square_()
        self.norm = self.energy.sqrt()
        self.bound = torch.log1p(rule.alpha * self.energy)
        self.age = torch.zeros(len(gradients), dtype=torch.int64, device=gradients.device)
        self.total = like.new_zeros(like.shape[1], dtype=torch.float64)  # Σ_S g
        self.picks = Picks()

    def run(self) -> Picks:
        """Choose `k` rows, or fewer where the rule stops."""
        size = SHORTLIST
        while len(self.picks.rows) < self.k and not self.picks.stopped:
            before = len(self.picks.rows)
            self.block(min(size, len(self.bound)))
            bought = len(self.picks.rows) - before
            if bought <= BLOCK // 8:
                size = min(2 * size, len(self.bound))
            elif bought > BLOCK // 2:
                size = max(size // 2, SHORTLIST)
        return self.picks

    def block(self, size: int) -> None:
        """Bring the `size` rows of highest bound up to date and choose among them while nobody else can win."""
        rows = torch.topk(self.bound, size, sorted=False).indices.sort().values
        members = self.gradients[rows].to(self.working)
        energy = self.information.current(members, self.energy[rows], self.age[rows])
        alignment = (members @ self.total.to(self.working)).double()
        free = self.bound[rows] > -torch.inf
        self.picks.evaluations += size
        outside = self.bound.index_fill(0, rows, -torch.inf)
        ceiling, rival = (float(outside.max()), int(outside.argmax()))

        for _ in range(BLOCK):
            gain = torch.log1p(self.rule.alpha * energy).masked_fill_(~free, -torch.inf)
            conflict = conflict_of(alignment, self.norm[rows], self.total.norm(), len(self.picks.rows))
            score = gain - self.rule.penalty * conflict
            best = int(score.argmax())
            if (float(score[best]), -int(rows[best])) < (ceiling, -rival) or self.finished(float(gain[best])):
                break
            self.take(int(rows[best]), members[best], energy[best], float(gain[best]), float(conflict[best]))
            free[best] = False
            energy = self.information.after_choice(members, energy)
            alignment += (members @ members[best]).double()

        self.energy[rows], self.age[rows] = energy, len(self.picks.rows)
        self.bound[rows] = torch.log1p(self.rule.alpha * energy).masked_fill_(~free, -torch.inf)

    def finished(self, gain: float) -> bool:
        """Whether the run has its k rows, or the next gain has fallen to the rule's share of the first."""
        if len(self.picks.rows) == self.k:
            return True
        first, ratio = self.picks.gains[:1], self.rule.stop_ratio
        self.picks.stopped = bool(first) and ratio is not None and gain <= ratio * first[0]
        return self.picks.stopped

    def take(self, row: int, gradient: Tensor, energy: Tensor, gain: float, conflict: float) -> None:
        """Record the choice and add it to S."""
        self.information.choose(gradient, energy)
        self.total += gradient
        self.picks.rows.append(row)
        self.picks.gains.append(gain)
        self.picks.conflicts.append(conflict)
