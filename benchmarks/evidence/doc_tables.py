"""The tables of docs/evidence.md, made from the rows of the results."""

from collections.abc import Callable, Sequence
from typing import Any

from .findings import sentence
from .methods import NARROWER
from .model_features import DIMS

Rows = dict[str, list[dict[str, Any]]]


def losses(
    rows: Rows, pool: str, budget: float, measures: Sequence[str], only: Sequence[str] | None = None
) -> list[str]:
    """Random's losses, and under them the differences of all methods that have at least three draws."""
    some = [row for row in rows["sft"] if row["pool"] == pool and row["budget"] == budget]
    some = [row for row in some if row["method"] not in NARROWER and (only is None or row["method"] in only)]
    cells = {(row["method"], row["measure"]): row for row in some if row["pools"] > 2}
    names = [name for name, measure in cells if measure == measures[0] and name != "random"]
    names.sort(key=lambda name: cells[name, measures[0]]["difference"])
    return [
        f"| {name} | {cells[name, measures[0]]['pools']} | "
        + " | ".join(gap(cells[name, measure]) for measure in measures)
        + " |"
        for name in ["random", *names]
    ]


def by_budget(rows: Rows) -> list[str]:
    """GSM8K losses at every budget, of all methods that have at least three draws at each."""
    cells = {
        (row["method"], row["budget"]): row
        for row in rows["sft"]
        if (row["pool"], row["measure"]) == ("mixed", STEPS) and row["pools"] > 2
    }
    names = [name for name, _ in cells if all((name, budget) in cells for budget in BUDGETS)]
    names.sort(key=lambda name: cells[name, BUDGETS[0]].get("difference", -1.0))
    return [
        f"| {name} | " + " | ".join(gap(cells[name, budget]) for budget in BUDGETS) + " |"
        for name in dict.fromkeys(names)
    ]


def by_width(rows: Rows) -> list[str]:
    """GTP's losses by the numbers of a sketched gradient: GSM8K on the mixed pool, BBH on Alpaca alone."""
    cells = {(row["pool"], row["budget"], row["method"], row["measure"]): row for row in rows["sft"]}
    places = [
        (pool, budget, measure) for pool, measure in (("mixed", STEPS), ("alpaca", BBH[0])) for budget in (0.01, 0.05)
    ]
    return [
        f"| {width} | "
        + " | ".join(gap(cells[pool, budget, name, measure]) for pool, budget, measure in places)
        + " |"
        for name, width in [*((name, f"{dims:,}") for name, dims in NARROWER.items()), ("GTP target", f"{DIMS:,}")]
    ]


def gap(row: dict[str, Any]) -> str:
    """The difference to random with its interval; of random itself the mean."""
    if "difference" not in row:
        return f"{row['mean']:.3f}"
    mark = {"beats": " ▲", "loses": " ▼", "ties": ""}[row["verdict"]]
    return f"{row['difference']:+.3f} ± {row['difference_half_width']:.3f}{mark}".replace("-", "−")


def believed(rows: Rows) -> list[str]:
    """Each line, what becomes of it, how many of its comparisons held, and the first of them that decides."""
    lines = []
    for line in dict.fromkeys(row["line"] for row in rows["findings"]):
        some = [row for row in rows["findings"] if row["line"] == line]
        held = sum(row["holds"] for row in some)
        telling = next((row for row in some if not row["holds"]), some[0])
        draws = f"{min(row['pools'] for row in some)} to {max(row['pools'] for row in some)}"
        lines.append(f"| {line} | {some[0]['verdict']} | {held} of {len(some)} | {draws} | {sentence(telling)} |")
    return lines


def stability(rows: Rows) -> list[str]:
    """Jaccard of the picks before and after a small change, for each way to pick."""
    cells = {
        (row["method"], row["measure"]): row for row in rows["sensitivity"] if row["topic"].startswith("stability")
    }
    names = [name for name in dict.fromkeys(name for name, _ in cells) if (name, "target") in cells]
    ways = ("cover", "scores", "target", "top-k score")
    return [
        f"| {name.removeprefix('of ')} | {cells[name, 'cover']['pools']} | "
        + " | ".join(spread(cells[name, way]) for way in ways)
        + " |"
        for name in names
    ]


def spread(row: dict[str, Any]) -> str:
    """Mean and interval."""
    return f"{row['mean']:.2f}" + (f" ± {row['half_width']:.2f}" if row["half_width"] is not None else "")


BUDGETS = (0.01, 0.02, 0.05, 0.10)
STEPS = "gsm8k after steps"
GSM8K = (STEPS, "gsm8k after epochs", "alpaca after steps")
AGAIN = ("random", "GIP target", "GIP callback, target", "GIP cover", "GIP callback, cover")
BBH = ("bbh after steps", "bbh after epochs", "alpaca after steps")
BLOCKS: dict[str, Callable[[Rows], list[str]]] = {  # a table's head, and the rest of it
    "| picks | draws | GSM8K, equal steps | GSM8K, equal epochs | Alpaca, equal steps |": lambda rows: losses(
        rows, "mixed", 0.05, GSM8K
    ),
    "| picks | draws | Alpaca, equal steps | Alpaca, equal epochs |": lambda rows: losses(
        rows, "noisy", 0.05, ("alpaca after steps", "alpaca after epochs")
    ),
    "| picks | 1 % | 2 % | 5 % | 10 % |": by_budget,
    "| picks | draws | BBH, equal steps | BBH, equal epochs | Alpaca, equal steps |": lambda rows: losses(
        rows, "alpaca", 0.05, BBH
    ),
    "| picks | draws | GSM8K, equal epochs | Alpaca, equal epochs |": lambda rows: losses(
        rows, "mixed", 0.05, ("gsm8k after epochs", "alpaca after epochs"), AGAIN
    ),
    "| numbers | GSM8K, 1 % | GSM8K, 5 % | BBH, 1 % | BBH, 5 % |": by_width,
    "| believed | verdict | comparisons that held | draws | for instance |": believed,
    "| change | draws | covering | by scores | towards a target | top-k by score |": stability,
}
