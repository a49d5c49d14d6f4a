"""Fine-tuning the small model on every subset, judged by its loss on rows that no selector saw."""

import math
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

from torch import nn

from .jobs import Unit, name
from .methods import METHODS, NARROWER, SEEDED
from .model import Setup, load_setup
from .pools import KINDS, ROWS, Kind
from .selections import Selections
from .training import Size, Tokens, held_out_loss, train

STEPS, EPOCHS = 40, 2  # every run is judged after as many steps as all others, and after as many epochs
SEEDS, DRAWS = 5, 2
MAIN = (
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
KEY = ("random", "GIP target", "RDS+", "LESS", "GTP target")
PLAN: tuple[tuple[Sequence[str], Sequence[Kind], Sequence[float]], ...] = (  # what counts most first
    (MAIN, ("mixed", "noisy"), (0.05,)),
    (KEY, ("mixed",), (0.01, 0.10, 0.02)),
    (("full",), ("mixed",), (1.0,)),
    (MAIN, ("mixed", "noisy"), (0.01, 0.10, 0.02)),
    (MAIN, ("alpaca",), (0.05,)),
    (("full",), ("noisy", "alpaca"), (1.0,)),
    (METHODS, ("mixed",), (0.05,)),
    (tuple(NARROWER), ("mixed", "alpaca"), (0.05, 0.01)),
    (METHODS, KINDS, (0.05,)),
    (METHODS, KINDS, (0.05, 0.01, 0.10, 0.02)),
)
JUDGED: dict[Kind, tuple[str, ...]] = {"mixed": ("gsm8k", "alpaca"), "noisy": ("alpaca",), "alpaca": ("alpaca", "bbh")}


def units(seeds: int = SEEDS) -> Iterable[Unit]:
    """One run each, all of one seed before those of the next: a run cut short has balanced tables."""
    given: set[str] = set()
    for methods, kinds, budgets in PLAN:
        for seed, budget, kind, method in product(range(seeds), budgets, kinds, methods):
            for draw in range(DRAWS if method in SEEDED else 1):
                unit = {"pool": kind, "method": method, "budget": budget, "seed": seed, "draw": draw}
                if name(unit) not in given:
                    given.add(name(unit))
                    yield unit


class Runs:
    """Fine-tunes from the base model."""

    def __init__(self, data: Path, size: Size, device: str) -> None:
        """Open what is kept of the picks; the base model is loaded when a run needs it."""
        self.open = lambda: load_setup(data, size, device)
        self.selections = Selections(data, size, device)

    @property
    def setup(self) -> Setup:
        """The base model and all rows."""
        return self.open()

    def rows(self, unit: Unit) -> Tokens:
        """The rows a run trains on."""
        members = self.selections.pool(unit["pool"], unit["seed"]).members
        picks = range(ROWS) if unit["method"] == "full" else self.selections.picks(unit)
        return self.setup.rows.at(members[list(picks)].tolist())

    def run(self, unit: Unit) -> Unit:
        """Held-out losses of one run."""
        tokens = self.rows(unit)
        epochs = math.ceil(EPOCHS * len(tokens) / self.setup.size.batch)
        model, found = self.setup.fresh(), {}
        for step, _ in enumerate(train(model, tokens, max(STEPS, epochs), self.setup.size, seed=unit["seed"]), 1):
            for mark in [each for each, at in (("steps", STEPS), ("epochs", epochs)) if at == step]:
                found |= {
                    f"{judge} after {mark}": loss
                    for judge, loss in judged(self.setup, model, JUDGED[unit["pool"]]).items()
                }
        return found

    def base(self, _: Unit) -> Unit:
        """Held-out losses before any fine-tuning."""
        return judged(self.setup, self.setup.model, ("alpaca", "gsm8k", "bbh"))


def judged(setup: Setup, model: nn.Module, names: Sequence[str]) -> dict[str, float]:
    """Loss per answer token on each set of held-out rows."""
    return {name: held_out_loss(model, setup.judges[name]) for name in names}
