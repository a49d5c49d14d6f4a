"""Jobs → means with 95 % intervals, differences to random on the same pools, Markdown and pictures."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from hf_gip.dataset.comparison import interval

from .jobs import Job

LOWER_IS_BETTER = ("junk", "shuffled", "repeated", "alpaca", "gsm8k", "bbh")
UNRANKED = ("length",)


def summarize(rows: Iterable[Job], groups: Sequence[str], *, pair: str = "seed") -> list[dict[str, Any]]:
    """One line per group, method and measure: mean ± half-width, and the paired difference to `random`.

    Draws of one pool are averaged first, so every pool counts once. The interval is Student's t over pools.
    """
    values: dict[tuple, dict[Any, list[float]]] = defaultdict(lambda: defaultdict(list))
    keys = {*groups, "method", pair, "draw", "by"}
    for row in rows:
        for measure, value in row.items():
            if measure not in keys and isinstance(value, float) and value == value:
                values[(*(row[group] for group in groups), row["method"], measure)][row[pair]].append(value)
    lines = []
    for (*group, method, measure), draws in values.items():
        means = {seed: sum(losses) / len(losses) for seed, losses in draws.items()}
        base = values.get((*group, "random", measure), {})
        differences = [means[seed] - sum(base[seed]) / len(base[seed]) for seed in means if seed in base]
        line = dict(zip(groups, group, strict=True)) | {"method": method, "measure": measure, "pools": len(means)}
        lines.append(line | spread(list(means.values()), "mean", "half_width"))
        if method != "random" and len(differences) > 1:
            lines[-1] |= spread(differences, "difference", "difference_half_width")
            lines[-1]["verdict"] = verdict(measure, *interval(differences))
    return lines


def spread(values: list[float], name: str, width: str) -> dict[str, float | None]:
    """Mean and half-width, None for a single value."""
    if len(values) < 2:
        return {name: values[0], width: None}
    return dict(zip((name, width), interval(values), strict=True))


def verdict(measure: str, difference: float, half_width: float) -> str:
    """Whether random is beaten beyond the interval."""
    if measure in UNRANKED or abs(difference) <= half_width:
        return "ties"
    better = difference < 0 if measure.startswith(LOWER_IS_BETTER) else difference > 0
    return "beats" if better else "loses"


def pivot(lines: list[dict[str, Any]], measures: Sequence[str] | None = None, row: str = "method") -> str:
    """A Markdown table with one column per measure; ▲ beats random beyond the interval, ▼ loses."""
    measures = measures or list(dict.fromkeys(line["measure"] for line in lines))
    cells = {(line[row], line["measure"]): line for line in lines}
    names = list(dict.fromkeys(line[row] for line in lines))
    pools = {name: str(min(line["pools"] for line in lines if line[row] == name)) for name in names}
    head = f"| {row} | pools | " + " | ".join(measures) + " |\n| --- | ---: |" + " ---: |" * len(measures)
    body = [
        f"| {name} | {pools[name]} | " + " | ".join(cell(cells.get((name, key))) for key in measures) + " |"
        for name in names
    ]
    return "\n".join([head, *body])


def cell(line: dict[str, Any] | None) -> str:
    """Mean ± half-width, and where there is one the difference to random with its own."""
    if line is None:
        return ""
    text = number(line["mean"])
    if "difference" not in line:
        return text if line["half_width"] is None else f"{text} ± {number(line['half_width'])}"
    mark = {"beats": " ▲", "loses": " ▼", "ties": ""}[line["verdict"]]
    return f"{text} ({line['difference']:+.3g} ± {number(line['difference_half_width'])}){mark}"


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def sections(lines: list[dict[str, Any]], groups: Sequence[str], title: Callable[..., str], **options: Any) -> str:
    """One headed table per group."""
    parts = []
    for group in dict.fromkeys(tuple(line[name] for name in groups) for line in lines):
        section_lines = [line for line in lines if tuple(line[name] for name in groups) == group]
        parts.append(f"## {title(*group)}\n\n{pivot(section_lines, **options)}")
    return "\n\n".join(parts)


def picture(panels: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Differences to random with their intervals, one panel per entry."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {title: [line for line in lines if "difference" in line] for title, lines in panels.items()}
    panels = {title: lines for title, lines in panels.items() if lines}
    if not panels:
        return
    tallest = max(map(len, panels.values()))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(5.2 * len(panels), 1.4 + 0.26 * tallest), squeeze=False)
    for axis, (title, lines) in zip(axes[0], panels.items(), strict=True):
        ordered = sorted(lines, key=lambda line: line["difference"])
        colors = {"beats": "tab:green", "loses": "tab:red", "ties": "tab:gray"}
        for position, line in enumerate(ordered):
            axis.errorbar(
                line["difference"],
                position,
                xerr=line["difference_half_width"],
                fmt="o",
                color=colors[line["verdict"]],
            )
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_yticks(range(len(ordered)), [line["method"] for line in ordered], fontsize=8)
        axis.set_title(title, fontsize=9)
    figure.supxlabel("difference to random on the same pools, 95 % interval; green beats it, red loses", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
