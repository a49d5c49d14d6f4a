"""Puts the figures of the results into the README and docs/evidence.md; a test sees that they are there."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .doc_tables import BLOCKS, Rows
from .sentences import SENTENCES

ROOT = Path(__file__).resolve().parents[2]
GROUPS = {"selection": ("pool", "budget"), "sft": ("pool", "budget"), "probe": ("label",), "sensitivity": ("topic",)}
FIELD = re.compile(r"\{([^{}]*)\}")
NUMBER = r"([+−]?\d+(?:\.\d+)?(?: %)?)"


def results() -> Rows:
    """The rows of every table."""
    folder = ROOT / "benchmarks/results"
    names = (*GROUPS, "findings")
    return {name: json.loads((folder / f"quality_{name}.json").read_text())["rows"] for name in names}


def said(page: str, tables: Rows) -> Iterator[tuple[str, list[str]]]:
    """Every sentence of a page with holes for its figures, and the figures as the results have them now."""
    for place, template in SENTENCES[page]:
        table, *group = place.split(" | ")
        keys = GROUPS[table]
        some = [row for row in tables[table] if [str(row[key]) for key in keys] == group[: len(keys)]]
        measure = "".join(group[len(keys) :])
        yield template, [shown(some, measure, field) for field in FIELD.findall(template)]


def shown(rows: list[dict[str, Any]], measure: str, field: str) -> str:
    """One figure: `method | form`, or `method | measure | form`; a form is Python's or `%`, Δ or ± before it.

    Raises:
        ValueError: If not exactly one row has it.
    """
    method, *other, form = (part.strip() for part in field.split("|"))
    measure = other[0] if other else measure
    found = [row for row in rows if (row["method"], row["measure"]) == (method, measure)]
    if len(found) != 1:
        raise ValueError(f"{len(found)} rows have {method}, {measure}: one is needed.")
    value = found[0][{"Δ": "difference", "±": "difference_half_width"}.get(form[0], "mean")]
    form = form.lstrip("Δ±")
    text = f"{100 * value:.0f} %" if form == "%" else f"{value:{form}}"
    return text.replace("-", "−")


def pattern(template: str) -> str:
    """A sentence as it may stand on a page: any figures, and lines broken anywhere."""
    words = [re.sub(r"(?:\\ )+", r"\\s+", re.escape(text)) for text in FIELD.sub("\0", template).split("\0")]
    return NUMBER.join(words)


def block(head: str) -> re.Pattern[str]:
    """A table on a page: head, rule, and the lines up to the next that is none of it."""
    return re.compile(rf"^{re.escape(head)}\n(\|[-:| ]+\|\n)((?:\|.*\|\n)*)", re.MULTILINE)


def refresh(page: str) -> None:
    """Put the figures of the results into the sentences and tables of a page; read the words again afterwards.

    Raises:
        ValueError: If the page lacks a sentence.
    """
    text, tables = (ROOT / page).read_text(), results()
    for template, figures in said(page, tables):
        found = re.search(pattern(template), text)
        if found is None:
            raise ValueError(f"{page} does not say: {template}")
        for number in reversed(range(len(figures))):
            text = text[: found.start(number + 1)] + figures[number] + text[found.end(number + 1) :]
    for head, lines in BLOCKS.items():
        for found in block(head).finditer(text):
            text = text[: found.start(2)] + "".join(f"{line}\n" for line in lines(tables)) + text[found.end(2) :]
            break
    (ROOT / page).write_text(text)
