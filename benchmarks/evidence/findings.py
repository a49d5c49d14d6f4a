"""What one seed each had made us believe when the defaults were chosen, line by line, and what the draws say."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from hf_gip.dataset.judging import interval

from .jobs import Unit
from .tables import number

READING = (
    "A comparison is the first method's figure minus the other's on the same draws of a pool, with its 95 % interval. "
    "`more` and `less` hold beyond the interval; `no more` and `no less` hold unless the contrary is shown beyond it. "
    "A line is confirmed if all its comparisons hold, in part if some do; if none does it is overturned where the "
    "contrary holds beyond an interval, else not shown."
)
Relation = Literal["more", "less", "no more", "no less"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Which figure of which two methods, and how they were believed to stand to each other.

    Attributes:
        topic: A heading of the sensitivity or the selection table.
        measure: One of its columns.
        method: The method that is spoken of.
        relation: What its figure is, against the other's.
        against: The other method.
        times: What the other's figure is multiplied by first.
    """

    topic: str
    measure: str
    method: str
    relation: Relation
    against: str = "random"
    times: float = 1.0


SCORES, SCORE, SHARE, SEEN = "scores as, k = 250", "judges' score", "target share", "target coverage"


def each(
    topics: Sequence[str], measure: str, methods: Sequence[str], relation: Relation, against: str = "random"
) -> list[Comparison]:
    """The same comparison for several topics and methods."""
    return [Comparison(topic, measure, method, relation, against) for topic in topics for method in methods]


def ladder(topics: Sequence[str], measure: str, steps: Sequence[str], relation: Relation) -> list[Comparison]:
    """Each step against the one before."""
    return [Comparison(topic, measure, on, relation, off) for topic in topics for off, on in pairwise(steps)]


def ways(name: str) -> list[str]:
    """A construction from scores with a little and with much noise."""
    return [f"c 0.3, way {name}", f"c 3.0, way {name}"]


COVER = [f"ridge, covering, k = {k}" for k in (100, 500, 1500)]
TARGET = [f"ridge, towards a target, k = {k}" for k in (250, 500, 1500)]
WHITE = ["whitening, k = 50", "whitening, k = 500"]
LINES: dict[str, list[Comparison]] = {
    "Queries by regression on the scores choose worse rows than random": each(
        [SCORES], SCORE, ways("regression queries"), "less"
    ),
    "The centred dual is no better than random": each([SCORES], SCORE, ways("centred dual"), "no more"),
    "The dual as it stands finds better rows than random, at less coverage": [
        *each([SCORES], SCORE, ways("raw dual"), "more"),
        *each([SCORES], "coverage", ways("raw dual"), "less"),
    ],
    "Queries weighted by quality find better rows than random, worse than precision does": [
        *each([SCORES], SCORE, ways("weighted queries"), "more"),
        *each([SCORES], SCORE, ways("weighted queries"), "less", "c 0.3, way precision"),
    ],
    "Precision keeps nine tenths of top-k's score": [
        Comparison(topic, SCORE, method, "more", top, 0.9)
        for topic, top, methods in (
            (SCORES, "c 0.3, way top-k", ways("precision")),
            *((f"alpaca, {budget}", "top-k score", ["GIP scores"]) for budget in ("1%", "2%", "5%", "10%")),
        )
        for method in methods
    ],
    "… at no less coverage and diversity than random, more than top-k": [
        *each([SCORES], "coverage", ways("precision"), "no less"),
        *each([SCORES], "vendi", ways("precision"), "no less"),
        *each([SCORES], "coverage", ways("precision"), "more", "c 0.3, way top-k"),
    ],
    "`quality` is a knob from covering (0) to top-k (large)": [
        *each(["quality, k = 250"], SCORE, ["exponent 0.0"], "no more"),
        *ladder(["quality, k = 250"], SCORE, [f"exponent {x}" for x in (0.0, 0.5, 1.0, 2.0, 4.0)], "more"),
        *ladder(["quality, k = 250"], "coverage", [f"exponent {x}" for x in (0.0, 1.0, 4.0, 32.0)], "less"),
    ],
    "Covering without scores is more diverse than random once k > d": each(COVER[1:], "vendi", ["c 0.1"], "more"),
    "Whitening many queries loses their task": each(
        WHITE, SHARE, ["way whitened, queries 60"], "less", "way as they are, queries 60"
    ),
    "… down to random's share once k > d": each(WHITE[1:], SHARE, ["way whitened, queries 60"], "no more"),
    "Whitening is for few queries: it gains there": [
        *each(WHITE, SEEN, ["way whitened, queries 3"], "more", "way as they are, queries 3"),
        *each(WHITE, SHARE, ["way whitened, queries 3"], "more", "way as they are, queries 3"),
    ],
    "Information finds as many rows of a task as the projection": each(
        WHITE, SHARE, ["way information, queries 60"], "no less", "way as they are, queries 60"
    ),
    "Nearest to the mean query: more rows of the task, less coverage of it": [
        *each(["mixed, 1%", "mixed, 5%"], SHARE, ["nearest to the mean query"], "more", "GIP target"),
        *each(["mixed, 1%", "mixed, 5%"], SEEN, ["nearest to the mean query"], "less", "GIP target"),
    ],
    "Towards a target the share of its task rises with the ridge": ladder(
        TARGET[1:2], SHARE, [f"c {c}" for c in (0.1, 1.0, 3.0, 10.0, 30.0, 100.0)], "more"
    ),
    "… and so does coverage of unseen rows of it": ladder(
        TARGET[1:2], SEEN, [f"c {c}" for c in (0.1, 1.0, 3.0, 10.0, 30.0)], "more"
    ),
    "… while diversity falls": ladder(TARGET[1:2], "vendi", [f"c {c}" for c in (0.1, 1.0, 3.0, 10.0, 30.0)], "less"),
    "The ridge grows with k: 10 k/d covers the target better than 0.1 k/d": each(
        TARGET, SEEN, ["c 10.0"], "more", "c 0.1"
    ),
    "Plain matching pursuit is worse than random once k > d": [
        *each(["mixed, 10%"], SHARE, ["GIP target, matching"], "less"),
        *each(["mixed, 10%"], SEEN, ["GIP target, matching"], "less"),
        *each(["pursuit, k = 1500"], SHARE, ["way matching"], "less"),
        *each(["pursuit, k = 1500"], SEEN, ["way matching"], "less"),
    ],
    "Covering with 1 to 3 k/d covers better than random at every k": each(
        COVER, "coverage", ["c 1.0", "c 3.0"], "more"
    ),
    "… with 0.1 k/d it does not once k > d": each(COVER[1:], "coverage", ["c 0.1"], "no more"),
    "… and 10 k/d costs diversity": each(COVER, "vendi", ["c 10.0"], "less"),
}


def judged(rows: Iterable[Unit]) -> list[dict[str, Any]]:
    """Every comparison that has at least two draws, with its interval and what becomes of its line."""
    figures: dict[tuple[str, str, str], dict[Any, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for measure, value in row.items():
            if isinstance(value, float) and value == value:
                figures[row["topic"], row["method"], measure][row["seed"]].append(value)
    found = []
    for line, comparisons in LINES.items():
        some = [entry for each in comparisons if (entry := compared(figures, each))]
        found += [{"line": line} | entry | {"verdict": verdict(some)} for entry in some]
    return found


def verdict(comparisons: Sequence[dict[str, Any]]) -> str:
    """What becomes of a line."""
    held = [entry["holds"] for entry in comparisons]
    if any(held):
        return "confirmed" if all(held) else "in part"
    contrary = [entry["difference"] * (1 if entry["relation"] == "less" else -1) for entry in comparisons]
    beyond = [gap > entry["half_width"] for gap, entry in zip(contrary, comparisons, strict=True)]
    return "overturned" if any(beyond) or "no " in comparisons[0]["relation"] else "not shown"


def compared(figures: dict, about: Comparison) -> dict[str, Any] | None:
    """The difference on the draws that both have."""
    ours = figures.get((about.topic, about.method, about.measure), {})
    others = figures.get((about.topic, about.against, about.measure), {})
    gaps = [mean(ours[seed]) - about.times * mean(others[seed]) for seed in ours if seed in others]
    if len(gaps) < 2:
        return None
    difference, half_width = interval(gaps)
    holds = {
        "more": difference > half_width,
        "less": difference < -half_width,
        "no more": difference <= half_width,
        "no less": difference >= -half_width,
    }
    return {
        "topic": about.topic,
        "measure": about.measure,
        "method": about.method,
        "relation": about.relation,
        "against": about.against if about.times == 1 else f"{about.times} × {about.against}",
        "pools": len(gaps),
        "difference": difference,
        "half_width": half_width,
        "holds": holds[about.relation],
    }


def mean(values: Sequence[float]) -> float:
    """Of the draws of one pool."""
    return sum(values) / len(values)


def as_table(found: Sequence[dict[str, Any]]) -> str:
    """One row per comparison, the line and its verdict beside the first."""
    head = "| believed | verdict | compared | pools | |\n| --- | --- | --- | ---: | --- |"
    body, last = [], ""
    for row in found:
        first = (row["line"], row["verdict"]) if row["line"] != last else ("", "")
        last = row["line"]
        mark = "✓" if row["holds"] else "✗"
        body.append(f"| {first[0]} | {first[1]} | {sentence(row)} | {row['pools']} | {mark} |")
    return "\n".join([head, *body])


def sentence(row: dict[str, Any]) -> str:
    """A comparison in words, with its difference."""
    gap = f"{row['difference']:+.3g} ± {number(row['half_width'])}"
    return f"{row['topic']}: {row['measure']} of {row['method']}, {row['relation']} than {row['against']}: {gap}"
