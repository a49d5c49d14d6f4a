"""The tables of `benchmarks/results/quality_details.md`, made from the rows of the results."""

from collections.abc import Callable, Sequence
from typing import Any

from .findings import describe
from .methods import SKETCH_WIDTHS
from .model_features import DIMS

Rows = dict[str, list[dict[str, Any]]]


def loss_table(
    rows: Rows, pool: str, budget: float, measures: Sequence[str], only: Sequence[str] | None = None
) -> list[str]:
    """Random's losses, then the differences of all methods that have at least three draws."""
    selected = [row for row in rows["sft"] if row["pool"] == pool and row["budget"] == budget]
    selected = [
        row for row in selected if row["method"] not in SKETCH_WIDTHS and (only is None or row["method"] in only)
    ]
    cells = {(row["method"], row["measure"]): row for row in selected if row["pools"] > 2}
    names = [name for name, measure in cells if measure == measures[0] and name != "random"]
    names.sort(key=lambda name: cells[name, measures[0]]["difference"])
    return [
        f"| {name} | {cells[name, measures[0]]['pools']} | "
        + " | ".join(format_difference(cells[name, measure]) for measure in measures)
        + " |"
        for name in ["random", *names]
    ]


def budget_table(rows: Rows) -> list[str]:
    """GSM8K losses at every budget, of all methods that have at least three draws at each."""
    cells = {
        (row["method"], row["budget"]): row
        for row in rows["sft"]
        if (row["pool"], row["measure"]) == ("mixed", STEPS) and row["pools"] > 2
    }
    names = [name for name, _ in cells if all((name, budget) in cells for budget in BUDGETS)]
    names.sort(key=lambda name: cells[name, BUDGETS[0]].get("difference", -1.0))
    return [
        f"| {name} | " + " | ".join(format_difference(cells[name, budget]) for budget in BUDGETS) + " |"
        for name in dict.fromkeys(names)
    ]


def sketch_table(rows: Rows) -> list[str]:
    """GTP's losses by sketch width: GSM8K on the mixed pool, BBH on Alpaca alone."""
    cells = {(row["pool"], row["budget"], row["method"], row["measure"]): row for row in rows["sft"]}
    cases = [
        (pool, budget, measure) for pool, measure in (("mixed", STEPS), ("alpaca", BBH[0])) for budget in (0.01, 0.05)
    ]
    return [
        f"| {width} | "
        + " | ".join(format_difference(cells[pool, budget, name, measure]) for pool, budget, measure in cases)
        + " |"
        for name, width in [
            *((name, f"{dims:,}") for name, dims in SKETCH_WIDTHS.items()),
            ("GTP target", f"{DIMS:,}"),
        ]
    ]


def format_difference(row: dict[str, Any]) -> str:
    """The difference to random with its interval, or the mean for random itself."""
    if "difference" not in row:
        return f"{row['mean']:.3f}"
    mark = {"beats": " ▲", "loses": " ▼", "ties": ""}[row["verdict"]]
    return f"{row['difference']:+.3f} ± {row['difference_half_width']:.3f}{mark}".replace("-", "−")


def findings_table(rows: Rows) -> list[str]:
    """Each hypothesis with its verdict, the number of comparisons that hold, and a deciding one as an example."""
    lines = []
    for hypothesis in dict.fromkeys(row["hypothesis"] for row in rows["findings"]):
        selected = [row for row in rows["findings"] if row["hypothesis"] == hypothesis]
        example = next((row for row in selected if not row["holds"]), selected[0])
        draws = f"{min(row['pools'] for row in selected)} to {max(row['pools'] for row in selected)}"
        count = f"{sum(row['holds'] for row in selected)} of {len(selected)}"
        lines.append(f"| {hypothesis} | {selected[0]['verdict']} | {count} | {draws} | {describe(example)} |")
    return lines


def stability_table(rows: Rows) -> list[str]:
    """Jaccard index of the picks before and after a small change, by mode."""
    cells = {
        (row["method"], row["measure"]): row for row in rows["sensitivity"] if row["topic"].startswith("stability")
    }
    names = [name for name in dict.fromkeys(name for name, _ in cells) if (name, "target") in cells]
    modes = ("cover", "scores", "target", "top-k score")
    return [
        f"| {name.removeprefix('change ')} | {cells[name, 'cover']['pools']} | "
        + " | ".join(format_mean(cells[name, mode]) for mode in modes)
        + " |"
        for name in names
    ]


def format_mean(row: dict[str, Any]) -> str:
    """Mean and interval."""
    return f"{row['mean']:.2f}" + (f" ± {row['half_width']:.2f}" if row["half_width"] is not None else "")


BUDGETS = (0.01, 0.02, 0.05, 0.10)
STEPS = "gsm8k after steps"
GSM8K = (STEPS, "gsm8k after epochs", "alpaca after steps")
RESELECTION = ("random", "GIP target", "GIP callback, target", "GIP cover", "GIP callback, cover")
BBH = ("bbh after steps", "bbh after epochs", "alpaca after steps")
TABLES: dict[str, Callable[[Rows], list[str]]] = {  # header of a table, and its body
    "| picks | draws | GSM8K, equal steps | GSM8K, equal epochs | Alpaca, equal steps |": lambda rows: loss_table(
        rows, "mixed", 0.05, GSM8K
    ),
    "| picks | draws | Alpaca, equal steps | Alpaca, equal epochs |": lambda rows: loss_table(
        rows, "noisy", 0.05, ("alpaca after steps", "alpaca after epochs")
    ),
    "| picks | 1 % | 2 % | 5 % | 10 % |": budget_table,
    "| picks | draws | BBH, equal steps | BBH, equal epochs | Alpaca, equal steps |": lambda rows: loss_table(
        rows, "alpaca", 0.05, BBH
    ),
    "| picks | draws | GSM8K, equal epochs | Alpaca, equal epochs |": lambda rows: loss_table(
        rows, "mixed", 0.05, ("gsm8k after epochs", "alpaca after epochs"), RESELECTION
    ),
    "| numbers | GSM8K, 1 % | GSM8K, 5 % | BBH, 1 % | BBH, 5 % |": sketch_table,
    "| hypothesis | verdict | comparisons that held | draws | for instance |": findings_table,
    "| change | draws | covering | by scores | towards a target | top-k by score |": stability_table,
}
