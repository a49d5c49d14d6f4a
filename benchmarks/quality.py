"""Does selection beat random subsets of the same size? Real pools, many draws, 95 % intervals.

python benchmarks/quality.py [--only selection,probe,sensitivity,sft,trl] [--minutes 60] [--data FOLDER] [--large]

Every measurement is a small unit kept in ~/.cache/hf-gip/quality (or $HF_GIP_BENCHMARK_CACHE): a run that is cut off,
or that `--minutes` ends, goes on where it was. Results come from all units that are finished.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import datasets
import torch
from evidence import probe, selections, sensitivity, sft
from evidence.model import LARGE, SMALL, Size
from evidence.sft import Runs
from evidence.signals import load_signals
from evidence.tables import picture, sections, summarise
from evidence.units import Unit, run
from machine import RESULTS, write_results

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
PARTS = ("selection", "probe", "sensitivity", "trl", "sft")
PACKAGES = ("torch", "datasets", "transformers", "trl", "sentence-transformers", "scikit-learn")
READING = (
    "A cell is the mean, then in brackets the difference to random on the same pools with its 95 % interval "
    "(Student's t over pools; random is the mean of its draws of that pool). ▲ better than random beyond that "
    "interval, ▼ worse; one interval in twenty errs by chance. Pools of one kind are draws from one bank and share "
    "rows: a third in `alpaca`, most of the GSM8K and shuffled rows."
)


class Experiment:
    """Where the data are, how large the model is, and until when to work."""

    def __init__(self, given: argparse.Namespace) -> None:
        """Read the options."""
        self.data: Path = given.data
        self.size: Size = LARGE if given.large else SMALL
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.deadline = time.monotonic() + 60 * given.minutes
        self.suffix = "_large" if given.large else ""
        command = "python benchmarks/quality.py" + (" --large" if given.large else "")
        self.about: dict[str, Any] = {"command": command, "packages": PACKAGES}

    def selection(self) -> None:
        """Junk, target and coverage shares of every method's picks."""
        chosen = selections.Selections(self.data, self.size, self.device)
        rows = run("measures" + self.suffix, selections.units(), chosen.measured, self.deadline)
        lines = summarise(rows, ("pool", "budget"))
        body = sections(lines, ("pool", "budget"), lambda pool, budget: f"{pool}, {budget:.0%} of the rows")
        write_results("quality_selection" + self.suffix, lines, body=body, notes=[READING], **self.about)

    def probe(self) -> None:
        """A linear probe on the chosen rows."""
        rows = run("probe", probe.units(), probe.Probe(self.data).run, self.deadline)
        lines = summarise(rows, ("label", "k"))
        for line in lines:
            line["measure"] = f"k = {line['k']}"
        body = sections(
            lines, ("label",), lambda label: f"{label}: {'R²' if 'score' in label else 'balanced accuracy'}"
        )
        write_results("quality_probe", lines, body=body, notes=[READING], **self.about)

    def sensitivity(self) -> None:
        """Each default moved."""
        work = sensitivity.Sensitivity(self.data, lambda: load_signals(self.data, self.size, self.device))
        rows = [labelled(row) for row in run("sensitivity", sensitivity.units(), work.run, self.deadline)]
        lines = summarise(rows, ("topic",))
        body = sections(lines, ("topic",), str)
        write_results("quality_sensitivity", lines, body=body, notes=[READING], **self.about)

    def sft(self) -> None:
        """Held-out loss after fine-tuning, the plain loop and the runs by TRL."""
        runs = Runs(self.data, self.size, self.device)
        rows = run("sft" + self.suffix, sft.units(), runs.run, self.deadline)
        rows += [row for row in self.trl_rows(runs, 0.0) if "alpaca by TRL" not in row]
        base = [{"measure": name, "loss": loss} for name, loss in runs.base().items()]
        lines = summarise(rows, ("pool", "budget"))
        body = sections(lines, ("pool", "budget"), lambda pool, budget: f"{pool}, {budget:.0%} of the rows")
        notes = [READING, "Loss per answer token on rows no selector saw. Base model: " + str(base)]
        write_results("quality_sft" + self.suffix, lines, body=body, notes=notes, **self.about)
        self.pictures(lines)

    def trl(self) -> None:
        """Runs by `SFTTrainer`."""
        runs = Runs(self.data, self.size, self.device)
        rows = [row for row in self.trl_rows(runs, self.deadline) if "alpaca by TRL" in row]
        write_results("quality_trl" + self.suffix, rows, notes=["The same rows in the same order."], **self.about)

    def trl_rows(self, runs: Runs, deadline: float) -> list[Unit]:
        """All finished runs by TRL."""
        from evidence import trl_runs

        datasets.disable_progress_bars()
        return run("trl" + self.suffix, trl_runs.units(), lambda unit: trl_runs.by_trl(runs, unit), deadline)

    def pictures(self, losses: list[dict[str, Any]]) -> None:
        """Four panels at 5 % of the rows."""
        chosen = selections.Selections(self.data, self.size, self.device)
        rows = run("measures" + self.suffix, selections.units(), chosen.measured, 0.0)
        shares = summarise(rows, ("pool", "budget"))
        wanted = {
            "junk share, noisy pool": (shares, "noisy", "junk"),
            "GSM8K share, mixed pool": (shares, "mixed", "target share"),
            "GSM8K loss after fine-tuning, mixed pool": (losses, "mixed", "gsm8k after steps"),
            "Alpaca loss after fine-tuning, noisy pool": (losses, "noisy", "alpaca after steps"),
        }
        panels = {
            title: [x for x in lines if (x["pool"], x["measure"], x["budget"]) == (pool, measure, 0.05)]
            for title, (lines, pool, measure) in wanted.items()
        }
        picture(panels, RESULTS.parents[1] / "docs" / "pictures" / f"quality{self.suffix}.png")


def labelled(row: Unit) -> Unit:
    """A sensitivity unit whose budget belongs to its topic, and whose other options make a name for the method."""
    options = {key: row.pop(key) for key in sensitivity.OPTIONS if key in row}
    topic = f"{row['topic']}, k = {options.pop('k')}"
    name = ", ".join(f"{key} {value}" for key, value in options.items())
    return row | {"topic": topic, "method": "random" if "random" in options.values() else name}


def main() -> None:
    """Run the parts that were asked for, in their order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--minutes", type=float, default=60.0, help="no unit begins after this long")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--large", action="store_true", help="the same with a larger model, for one GPU")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    experiment = Experiment(given)
    for part in PARTS:
        if part in given.only.split(","):
            getattr(experiment, part)()


if __name__ == "__main__":
    main()
