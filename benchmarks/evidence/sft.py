"""Fine-tuning the small model on every subset, judged by its loss on rows that no selector saw."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import nn

from .methods import METHODS, SEEDED
from .model import Setup, Size, Tokens, held_out_loss, load_setup, train
from .pools import ROWS, Kind
from .selections import Selections
from .units import Unit

STEPS, EPOCHS = 40, 2  # every run is judged after as many steps as all others, and after as many epochs
SEEDS, DRAWS = 5, 2
JUDGED: dict[Kind, tuple[str, ...]] = {"mixed": ("gsm8k", "alpaca"), "noisy": ("alpaca",), "alpaca": ("alpaca", "bbh")}


def units(seeds: int = SEEDS) -> Iterable[Unit]:
    """One run each, in an order in which a run cut short has whole tables."""
    for budget in (0.05, 1.0, 0.01, 0.10, 0.02):
        for kind in JUDGED:
            for seed in range(seeds):
                for method in METHODS if budget < 1 else ("full",):
                    for draw in range(DRAWS if method in SEEDED else 1):
                        yield {"pool": kind, "method": method, "budget": budget, "seed": seed, "draw": draw}


class Runs:
    """Fine-tunes from the base model."""

    def __init__(self, data: Path, size: Size, device: str) -> None:
        """Open the base model and what is kept of the picks."""
        self.setup = load_setup(data, size, device)
        self.selections = Selections(data, size, device)

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
            for mark in [name for name, at in (("steps", STEPS), ("epochs", epochs)) if at == step]:
                found |= {
                    f"{judge} after {mark}": loss
                    for judge, loss in judged(self.setup, model, JUDGED[unit["pool"]]).items()
                }
        return found

    def base(self) -> Unit:
        """Held-out losses before any fine-tuning."""
        return judged(self.setup, self.setup.model, ("alpaca", "gsm8k", "bbh"))


def judged(setup: Setup, model: nn.Module, names: Sequence[str]) -> dict[str, float]:
    """Loss per answer token on each set of held-out rows."""
    return {name: held_out_loss(model, setup.judges[name]) for name in names}
