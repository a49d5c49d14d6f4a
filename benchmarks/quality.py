"""Does selection beat random subsets of the same size? Real pools, many draws, 95 % intervals.

python benchmarks/quality.py [--only selection,probe,sensitivity,sft,trl] [--minutes 60] [--data FOLDER] [--large]

Every measurement is a small unit kept in ~/.cache/hf-gip/quality (or $HF_GIP_BENCHMARK_CACHE): a run that is cut off,
or that `--minutes` ends, goes on where it was. Results come from all units that are finished. Each part has its share
of the minutes, what is most telling comes first in it, and a part says before it begins how long it will take.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
import torch
from evidence import findings, probe, selections, sensitivity, sft, update_docs
from evidence.jobs import Kept, Unit, run
from evidence.methods import NARROWER
from evidence.model import LARGE, SMALL, Size
from evidence.model_features import load_signals
from evidence.sft import Runs
from evidence.tables import picture, sections, summarise
from machine import RESULTS, write_results

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
PARTS = {"selection": 0.2, "probe": 0.1, "sensitivity": 0.2, "trl": 0.1, "sft": 0.4}  # and their shares of the minutes
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
        self.workers = 1 if self.device == "cuda" else given.workers
        self.deadline = 0.0
        self.suffix = "_large" if given.large else ""
        command = "python benchmarks/quality.py" + (" --large" if given.large else "")
        self.about: dict[str, Any] = {"command": command, "packages": PACKAGES}

    def run(self, part: str, units: Iterable[Unit], work: Callable[[Unit], Unit]) -> list[Unit]:
        """All finished units of a part."""
        return run(part, units, work, self.deadline, self.workers)

    def selection(self) -> None:
        """Junk, target and coverage shares of every method's picks."""
        chosen, part = selections.Selections(self.data, self.size, self.device), "measures" + self.suffix
        rows = self.run(part, selections.units(), chosen.measured)
        lines = summarise(rows, ("pool", "budget"))
        body = sections(lines, ("pool", "budget"), lambda pool, budget: f"{pool}, {budget:.0%} of the rows")
        write_results("quality_selection" + self.suffix, lines, body=body, notes=[READING, cost(part)], **self.about)

    def probe(self) -> None:
        """A linear probe on the chosen rows."""
        rows = self.run("probe", probe.units(), probe.Probe(self.data).run)
        lines = summarise(rows, ("label", "k"))
        for line in lines:
            line["measure"] = f"k = {line['k']}"
        body = sections(
            lines, ("label",), lambda label: f"{label}: {'R²' if 'score' in label else 'balanced accuracy'}"
        )
        write_results("quality_probe", lines, body=body, notes=[READING, cost("probe")], **self.about)

    def sensitivity(self) -> None:
        """Each default moved."""
        work = sensitivity.Sensitivity(self.data, lambda: load_signals(self.data, self.size, self.device))
        rows = [labelled(row) for row in self.run("sensitivity", sensitivity.units(), work.run)]
        lines = summarise(rows, ("topic",))
        body = sections(lines, ("topic",), str)
        write_results("quality_sensitivity", lines, body=body, notes=[READING, cost("sensitivity")], **self.about)
        chosen = selections.Selections(self.data, self.size, self.device)
        shares = run("measures" + self.suffix, selections.units(), chosen.measured, 0.0)
        found = findings.judged(rows + [row | {"topic": f"{row['pool']}, {row['budget']:.0%}"} for row in shares])
        write_results("quality_findings", found, body=findings.as_table(found), notes=[findings.READING], **self.about)

    def sft(self) -> None:
        """Held-out loss after fine-tuning, the plain loop and the runs by TRL."""
        runs, part = Runs(self.data, self.size, self.device), "sft" + self.suffix
        rows = self.run(part, sft.units(), runs.run)
        rows += [row for row in self.trl_rows(runs, 0.0) if "alpaca by TRL" not in row]
        base = run("base" + self.suffix, [{"model": "base"}], runs.base, self.deadline)
        lines = summarise(rows, ("pool", "budget"))
        body = sections(lines, ("pool", "budget"), lambda pool, budget: f"{pool}, {budget:.0%} of the rows")
        notes = [
            READING,
            "Loss per answer token on rows no selector saw. Before fine-tuning: " + str(base),
            cost(part),
        ]
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
        losses = [line for line in losses if line["method"] not in NARROWER]
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


def cost(part: str) -> str:
    """What a part takes, in processor seconds: they mean the same on a busy machine."""
    kept = Kept(part)
    timed = [entry["cpu"] for entry in kept.found.values() if "cpu" in entry]
    return f"{len(kept.found)} units are finished; {len(timed)} timed ones took {sum(timed):.0f} processor seconds."


def main() -> None:
    """Run the parts that were asked for, in their order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", default=",".join(PARTS), help="parts, separated by commas; `page`: figures into the docs"
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="no unit begins after this long")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes of one thread")
    parser.add_argument("--large", action="store_true", help="the same with a larger model, for one GPU")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.only == "page":
        for page in update_docs.SENTENCES:
            update_docs.refresh(page)
        return
    asked = [part for part in PARTS if part in given.only.split(",")]
    experiment, started = Experiment(given), time.monotonic()
    for number, part in enumerate(asked, 1):
        share = sum(PARTS[each] for each in asked[:number]) / sum(PARTS[each] for each in asked)
        experiment.deadline = started + 60 * given.minutes * share  # what a part leaves over goes to the next
        getattr(experiment, part)()
    print(f"{(time.monotonic() - started) / 60:.1f} minutes in all", flush=True)


if __name__ == "__main__":
    main()
