"""The hypotheses behind the defaults (each from one seed), tested on many draws."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from hf_gip.dataset.comparison import interval

from .jobs import Job
from .tables import number

LEGEND = (
    "A comparison is the first method's figure minus the other's on the same draws of a pool, with its 95 % interval. "
    "`more` and `less` hold beyond the interval; `no more` and `no less` hold unless the contrary is shown beyond it. "
    "A hypothesis is confirmed if all its comparisons hold, and in part if some do. If none does, it is overturned if "
    "the contrary holds beyond an interval, else not shown."
)
Relation = Literal["more", "less", "no more", "no less"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A measure of two methods, and the relation that was expected.

    Attributes:
        topic: A heading of the sensitivity or the selection table.
        measure: One of its columns.
        method: The first method.
        relation: Expected relation of its figure to the other's.
        against: The other method.
        times: Factor on the other's figure.
    """

    topic: str
    measure: str
    method: str
    relation: Relation
    against: str = "random"
    times: float = 1.0


SCORES, SCORE, SHARE, COVERAGE = "scores as, k = 250", "judges' score", "target share", "target coverage"


def for_all(
    topics: Sequence[str], measure: str, methods: Sequence[str], relation: Relation, against: str = "random"
) -> list[Comparison]:
    """The same comparison for several topics and methods."""
    return [Comparison(topic, measure, method, relation, against) for topic in topics for method in methods]


def successive(topics: Sequence[str], measure: str, steps: Sequence[str], relation: Relation) -> list[Comparison]:
    """Each step against the one before."""
    return [Comparison(topic, measure, on, relation, off) for topic in topics for off, on in pairwise(steps)]


def score_variants(name: str) -> list[str]:
    """A use of scores, with little and with much noise."""
    return [f"c 0.3, variant {name}", f"c 3.0, variant {name}"]


COVER = [f"ridge, covering, k = {k}" for k in (100, 500, 1500)]
TARGET = [f"ridge, towards a target, k = {k}" for k in (250, 500, 1500)]
WHITE = ["whitening, k = 50", "whitening, k = 500"]
HYPOTHESES: dict[str, list[Comparison]] = {
    "Queries by regression on the scores choose worse rows than random": for_all(
        [SCORES], SCORE, score_variants("regression queries"), "less"
    ),
    "The centered dual is no better than random": for_all([SCORES], SCORE, score_variants("centered dual"), "no more"),
    "The dual as it stands finds better rows than random, at less coverage": [
        *for_all([SCORES], SCORE, score_variants("raw dual"), "more"),
        *for_all([SCORES], "coverage", score_variants("raw dual"), "less"),
    ],
    "Queries weighted by quality find better rows than random, worse than precision does": [
        *for_all([SCORES], SCORE, score_variants("weighted queries"), "more"),
        *for_all([SCORES], SCORE, score_variants("weighted queries"), "less", "c 0.3, variant precision"),
    ],
    "Precision keeps nine tenths of top-k's score": [
        Comparison(topic, SCORE, method, "more", top, 0.9)
        for topic, top, methods in (
            (SCORES, "c 0.3, variant top-k", score_variants("precision")),
            *((f"alpaca, {budget}", "top-k score", ["GIP scores"]) for budget in ("1%", "2%", "5%", "10%")),
        )
        for method in methods
    ],
    "… at no less coverage and diversity than random, more than top-k": [
        *for_all([SCORES], "coverage", score_variants("precision"), "no less"),
        *for_all([SCORES], "vendi", score_variants("precision"), "no less"),
        *for_all([SCORES], "coverage", score_variants("precision"), "more", "c 0.3, variant top-k"),
    ],
    "`quality` is a knob from covering (0) to top-k (large)": [
        *for_all(["quality, k = 250"], SCORE, ["exponent 0.0"], "no more"),
        *successive(["quality, k = 250"], SCORE, [f"exponent {x}" for x in (0.0, 0.5, 1.0, 2.0, 4.0)], "more"),
        *successive(["quality, k = 250"], "coverage", [f"exponent {x}" for x in (0.0, 1.0, 4.0, 32.0)], "less"),
    ],
    "Covering without scores is more diverse than random once k > d": for_all(COVER[1:], "vendi", ["c 0.1"], "more"),
    "Whitening many queries loses their task": for_all(
        WHITE, SHARE, ["variant whitened, queries 60"], "less", "variant as they are, queries 60"
    ),
    "… down to random's share once k > d": for_all(WHITE[1:], SHARE, ["variant whitened, queries 60"], "no more"),
    "Whitening is for few queries: it gains there": [
        *for_all(WHITE, COVERAGE, ["variant whitened, queries 3"], "more", "variant as they are, queries 3"),
        *for_all(WHITE, SHARE, ["variant whitened, queries 3"], "more", "variant as they are, queries 3"),
    ],
    "Information finds as many rows of a task as the projection": for_all(
        WHITE, SHARE, ["variant information, queries 60"], "no less", "variant as they are, queries 60"
    ),
    "Nearest to the mean query: more rows of the task, less coverage of it": [
        *for_all(["mixed, 1%", "mixed, 5%"], SHARE, ["nearest to the mean query"], "more", "GIP target"),
        *for_all(["mixed, 1%", "mixed, 5%"], COVERAGE, ["nearest to the mean query"], "less", "GIP target"),
    ],
    "Towards a target the share of its task rises with the ridge": successive(
        TARGET[1:2], SHARE, [f"c {c}" for c in (0.1, 1.0, 3.0, 10.0, 30.0, 100.0)], "more"
    ),
    "… and so does coverage of unseen rows of it": successive(
        TARGET[1:2], COVERAGE, [f"c {c}" for c in (0.1, 1.0, 3.0, 10.0, 30.0)], "more"
    ),
    "… while diversity falls": successive(
        TARGET[1:2], "vendi", [f"c {c}" for c in (0.1, 1.0, 3.0, 10.0, 30.0)], "less"
    ),
    "The ridge grows with k: 10 k/d covers the target better than 0.1 k/d": for_all(
        TARGET, COVERAGE, ["c 10.0"], "more", "c 0.1"
    ),
    "Plain matching pursuit is worse than random once k > d": [
        *for_all(["mixed, 10%"], SHARE, ["GIP target, matching"], "less"),
        *for_all(["mixed, 10%"], COVERAGE, ["GIP target, matching"], "less"),
        *for_all(["pursuit, k = 1500"], SHARE, ["variant matching"], "less"),
        *for_all(["pursuit, k = 1500"], COVERAGE, ["variant matching"], "less"),
    ],
    "Covering with 1 to 3 k/d covers better than random at every k": for_all(
        COVER, "coverage", ["c 1.0", "c 3.0"], "more"
    ),
    "… with 0.1 k/d it does not once k > d": for_all(COVER[1:], "coverage", ["c 0.1"], "no more"),
    "… and 10 k/d costs diversity": for_all(COVER, "vendi", ["c 10.0"], "less"),
}


def evaluate(rows: Iterable[Job]) -> list[dict[str, Any]]:
    """Every comparison that has at least two draws, with its interval and the verdict on its hypothesis."""
    figures: dict[tuple[str, str, str], dict[Any, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for measure, value in row.items():
            if isinstance(value, float) and value == value:
                figures[row["topic"], row["method"], measure][row["seed"]].append(value)
    evaluated = []
    for hypothesis, comparisons in HYPOTHESES.items():
        entries = [entry for comparison in comparisons if (entry := evaluate_comparison(figures, comparison))]
        evaluated += [{"hypothesis": hypothesis} | entry | {"verdict": verdict(entries)} for entry in entries]
    return evaluated


def verdict(comparisons: Sequence[dict[str, Any]]) -> str:
    """Verdict on a hypothesis."""
    holds = [entry["holds"] for entry in comparisons]
    if any(holds):
        return "confirmed" if all(holds) else "in part"
    contrary = [entry["difference"] * (1 if entry["relation"] == "less" else -1) for entry in comparisons]
    beyond = [gap > entry["half_width"] for gap, entry in zip(contrary, comparisons, strict=True)]
    return "overturned" if any(beyond) or "no " in comparisons[0]["relation"] else "not shown"


def evaluate_comparison(figures: dict, about: Comparison) -> dict[str, Any] | None:
    """The difference on the draws that both methods have."""
    ours = figures.get((about.topic, about.method, about.measure), {})
    theirs = figures.get((about.topic, about.against, about.measure), {})
    gaps = [mean(ours[seed]) - about.times * mean(theirs[seed]) for seed in ours if seed in theirs]
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
    """Mean over the draws of one pool."""
    return sum(values) / len(values)


def as_table(evaluated: Sequence[dict[str, Any]]) -> str:
    """One row per comparison. The hypothesis and its verdict stand in its first row."""
    head = "| hypothesis | verdict | compared | pools | |\n| --- | --- | --- | ---: | --- |"
    body, last = [], ""
    for row in evaluated:
        first = (row["hypothesis"], row["verdict"]) if row["hypothesis"] != last else ("", "")
        last = row["hypothesis"]
        mark = "✓" if row["holds"] else "✗"
        body.append(f"| {first[0]} | {first[1]} | {describe(row)} | {row['pools']} | {mark} |")
    return "\n".join([head, *body])


def describe(row: dict[str, Any]) -> str:
    """A comparison in words, with its difference."""
    gap = f"{row['difference']:+.3g} ± {number(row['half_width'])}"
    return f"{row['topic']}: {row['measure']} of {row['method']}, {row['relation']} than {row['against']}: {gap}"
