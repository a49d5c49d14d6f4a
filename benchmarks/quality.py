"""Does selection beat random subsets of the same size? Real pools, many draws, 95 % intervals.

python benchmarks/quality.py [--only selection,probe,sensitivity,sft,trl] [--minutes 60] [--data FOLDER] [--large]

Every measurement is a small job, stored in ~/.cache/hf-gip/quality (or $HF_GIP_BENCHMARK_CACHE). A run that is killed,
or ended by `--minutes`, resumes where it stopped. Results come from all finished jobs. Each part has its share of the
minutes, runs its most important jobs first, and prints an estimate before it starts.
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
from evidence.jobs import Job, JobStore, run_jobs
from evidence.methods import SKETCH_WIDTHS
from evidence.model import LARGE, SMALL, Size
from evidence.model_features import load_model_features
from evidence.sft import Runs
from evidence.tables import picture, sections, summarize
from machine import RESULTS, write_results

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
PARTS = {"selection": 0.2, "probe": 0.1, "sensitivity": 0.2, "trl": 0.1, "sft": 0.4}  # and their shares of the minutes
PACKAGES = ("torch", "datasets", "transformers", "trl", "sentence-transformers", "scikit-learn")
LEGEND = (
    "A cell is the mean, then in brackets the difference to random on the same pools with its 95 % interval "
    "(Student's t over pools; random is the mean of its draws of that pool). ▲ better than random beyond that "
    "interval, ▼ worse; one interval in twenty errs by chance. Pools of one kind are draws from one bank and share "
    "rows: a third in `alpaca`, most of the GSM8K and shuffled rows."
)


class Experiment:
    """Data folder, model size and deadline."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Read the options."""
        self.data: Path = arguments.data
        self.size: Size = LARGE if arguments.large else SMALL
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.workers = 1 if self.device == "cuda" else arguments.workers
        self.deadline = 0.0
        self.suffix = "_large" if arguments.large else ""
        command = "python benchmarks/quality.py" + (" --large" if arguments.large else "")
        self.about: dict[str, Any] = {"command": command, "packages": PACKAGES}

    def run(self, part: str, jobs: Iterable[Job], work: Callable[[Job], Job]) -> list[Job]:
        """All finished jobs of a part."""
        return run_jobs(part, jobs, work, self.deadline, self.workers)

    def selection(self) -> None:
        """Junk, target and coverage shares of every method's picks."""
        selections_store, part = selections.Selections(self.data, self.size, self.device), "measures" + self.suffix
        rows = self.run(part, selections.jobs(), selections_store.metrics)
        lines = summarize(rows, ("pool", "budget"))
        body = sections(lines, ("pool", "budget"), lambda pool, budget: f"{pool}, {budget:.0%} of the rows")
        write_results("quality_selection" + self.suffix, lines, body=body, notes=[LEGEND, cost(part)], **self.about)

    def probe(self) -> None:
        """A linear probe on the chosen rows."""
        rows = self.run("probe", probe.jobs(), probe.Probe(self.data).run)
        lines = summarize(rows, ("label", "k"))
        for line in lines:
            line["measure"] = f"k = {line['k']}"
        body = sections(
            lines, ("label",), lambda label: f"{label}: {'R²' if 'score' in label else 'balanced accuracy'}"
        )
        write_results("quality_probe", lines, body=body, notes=[LEGEND, cost("probe")], **self.about)

    def sensitivity(self) -> None:
        """Ablations of each default."""
        work = sensitivity.Sensitivity(self.data, lambda: load_model_features(self.data, self.size, self.device))
        rows = [label_method(row) for row in self.run("sensitivity", sensitivity.jobs(), work.run)]
        lines = summarize(rows, ("topic",))
        body = sections(lines, ("topic",), str)
        write_results("quality_sensitivity", lines, body=body, notes=[LEGEND, cost("sensitivity")], **self.about)
        selections_store = selections.Selections(self.data, self.size, self.device)
        shares = run_jobs("measures" + self.suffix, selections.jobs(), selections_store.metrics, 0.0)
        evaluated = findings.evaluate(
            rows + [row | {"topic": f"{row['pool']}, {row['budget']:.0%}"} for row in shares]
        )
        write_results(
            "quality_findings", evaluated, body=findings.as_table(evaluated), notes=[findings.LEGEND], **self.about
        )

    def sft(self) -> None:
        """Held-out loss after fine-tuning, the plain loop and the runs by TRL."""
        runs, part = Runs(self.data, self.size, self.device), "sft" + self.suffix
        rows = self.run(part, sft.jobs(), runs.run)
        rows += [row for row in self.trl_rows(runs, 0.0) if "alpaca by TRL" not in row]
        base = run_jobs("base" + self.suffix, [{"model": "base"}], runs.base, self.deadline)
        lines = summarize(rows, ("pool", "budget"))
        body = sections(lines, ("pool", "budget"), lambda pool, budget: f"{pool}, {budget:.0%} of the rows")
        notes = [
            LEGEND,
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

    def trl_rows(self, runs: Runs, deadline: float) -> list[Job]:
        """All finished runs by TRL."""
        from evidence import trl_runs

        datasets.disable_progress_bars()
        return run_jobs("trl" + self.suffix, trl_runs.jobs(), lambda job: trl_runs.run_trl(runs, job), deadline)

    def pictures(self, losses: list[dict[str, Any]]) -> None:
        """Four panels at 5 % of the rows."""
        selections_store = selections.Selections(self.data, self.size, self.device)
        rows = run_jobs("measures" + self.suffix, selections.jobs(), selections_store.metrics, 0.0)
        shares = summarize(rows, ("pool", "budget"))
        losses = [line for line in losses if line["method"] not in SKETCH_WIDTHS]
        panels_of = {
            "junk share, noisy pool": (shares, "noisy", "junk"),
            "GSM8K share, mixed pool": (shares, "mixed", "target share"),
            "GSM8K loss after fine-tuning, mixed pool": (losses, "mixed", "gsm8k after steps"),
            "Alpaca loss after fine-tuning, noisy pool": (losses, "noisy", "alpaca after steps"),
        }
        panels = {
            title: [x for x in lines if (x["pool"], x["measure"], x["budget"]) == (pool, measure, 0.05)]
            for title, (lines, pool, measure) in panels_of.items()
        }
        picture(panels, RESULTS.parents[1] / "docs" / "pictures" / f"quality{self.suffix}.png")


def label_method(row: Job) -> Job:
    """Move the budget of a sensitivity job into its topic, and its other options into the name of the method."""
    options = {key: row.pop(key) for key in sensitivity.OPTIONS if key in row}
    topic = f"{row['topic']}, k = {options.pop('k')}"
    name = ", ".join(f"{key} {value}" for key, value in options.items())
    return row | {"topic": topic, "method": "random" if "random" in options.values() else name}


def cost(part: str) -> str:
    """Cost of a part in processor seconds, which depend little on other load."""
    store = JobStore(part)
    timed = [entry["cpu"] for entry in store.finished.values() if "cpu" in entry]
    return f"{len(store.finished)} jobs are finished; {len(timed)} timed ones took {sum(timed):.0f} processor seconds."


def main() -> None:
    """Run the requested parts in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", default=",".join(PARTS), help="parts, separated by commas; `page` writes the figures into the docs"
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="no job starts after this many minutes")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes of one thread")
    parser.add_argument("--large", action="store_true", help="the same with a larger model, for one GPU")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.only == "page":
        for page in update_docs.SENTENCES:
            update_docs.update_page(page)
        return
    parts = [part for part in PARTS if part in arguments.only.split(",")]
    experiment, started = Experiment(arguments), time.monotonic()
    for number, part in enumerate(parts, 1):
        share = sum(PARTS[each] for each in parts[:number]) / sum(PARTS[each] for each in parts)
        experiment.deadline = started + 60 * arguments.minutes * share  # unused time goes to the next part
        getattr(experiment, part)()
    print(f"{(time.monotonic() - started) / 60:.1f} minutes in all", flush=True)


if __name__ == "__main__":
    main()
