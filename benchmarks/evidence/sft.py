"""Fine-tuning the small model on every subset, measured by its loss on held-out rows."""

import math
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

from torch import nn

from .jobs import Job, job_key
from .methods import METHODS, SEEDED, SKETCH_WIDTHS
from .model import Setup, load_setup
from .pools import KINDS, ROWS, Kind
from .selections import Selections
from .training import Size, Tokens, held_out_loss, train

STEPS, EPOCHS = 40, 2  # losses are measured after equal steps and after equal epochs
SEEDS, DRAWS = 5, 2
MAIN_METHODS = (
    "random",
    "GIP target",
    "GIP scores",
    "RDS+",
    "LESS",
    "GTP target",
    "GIP cover",
    "top-k score",
    "longest",
    "SPICE windows",
)
KEY_METHODS = ("random", "GIP target", "RDS+", "LESS", "GTP target")
PLAN: tuple[tuple[Sequence[str], Sequence[Kind], Sequence[float]], ...] = (  # most important first
    (MAIN_METHODS, ("mixed", "noisy"), (0.05,)),
    (KEY_METHODS, ("mixed",), (0.01, 0.10, 0.02)),
    (("full",), ("mixed",), (1.0,)),
    (MAIN_METHODS, ("mixed", "noisy"), (0.01, 0.10, 0.02)),
    (MAIN_METHODS, ("alpaca",), (0.05,)),
    (("full",), ("noisy", "alpaca"), (1.0,)),
    (METHODS, ("mixed",), (0.05,)),
    (tuple(SKETCH_WIDTHS), ("mixed", "alpaca"), (0.05, 0.01)),
    (METHODS, KINDS, (0.05,)),
    (METHODS, KINDS, (0.05, 0.01, 0.10, 0.02)),
)
HELD_OUT: dict[Kind, tuple[str, ...]] = {
    "mixed": ("gsm8k", "alpaca"),
    "noisy": ("alpaca",),
    "alpaca": ("alpaca", "bbh"),
}


def jobs(seeds: int = SEEDS) -> Iterable[Job]:
    """One run each, all of one seed before those of the next: a run cut short has balanced tables."""
    yielded: set[str] = set()
    for methods, kinds, budgets in PLAN:
        for seed, budget, kind, method in product(range(seeds), budgets, kinds, methods):
            for draw in range(DRAWS if method in SEEDED else 1):
                job = {"pool": kind, "method": method, "budget": budget, "seed": seed, "draw": draw}
                if job_key(job) not in yielded:
                    yielded.add(job_key(job))
                    yield job


class Runs:
    """Fine-tunes from the base model."""

    def __init__(self, data: Path, size: Size, device: str) -> None:
        """Open the stored picks. The base model is loaded when a run needs it."""
        self.open = lambda: load_setup(data, size, device)
        self.selections = Selections(data, size, device)

    @property
    def setup(self) -> Setup:
        """The base model and all rows."""
        return self.open()

    def rows(self, job: Job) -> Tokens:
        """The rows a run trains on."""
        members = self.selections.pool(job["pool"], job["seed"]).members
        picks = range(ROWS) if job["method"] == "full" else self.selections.picks(job)
        return self.setup.rows.select(members[list(picks)].tolist())

    def run(self, job: Job) -> Job:
        """Held-out losses of one run."""
        tokens = self.rows(job)
        epochs = math.ceil(EPOCHS * len(tokens) / self.setup.size.batch)
        model, losses = self.setup.fresh(), {}
        for step, _ in enumerate(train(model, tokens, max(STEPS, epochs), self.setup.size, seed=job["seed"]), 1):
            for moment in [unit for unit, last in (("steps", STEPS), ("epochs", epochs)) if last == step]:
                losses |= {
                    f"{judge} after {moment}": loss
                    for judge, loss in held_out_losses(self.setup, model, HELD_OUT[job["pool"]]).items()
                }
        return losses

    def base(self, _: Job) -> Job:
        """Held-out losses before any fine-tuning."""
        return held_out_losses(self.setup, self.setup.model, ("alpaca", "gsm8k", "bbh"))


def held_out_losses(setup: Setup, model: nn.Module, judges: Sequence[str]) -> dict[str, float]:
    """Loss per answer token on each set of held-out rows."""
    return {judge: held_out_loss(model, setup.held_out[judge]) for judge in judges}
