"""Writes the figures of the results into the README and the benchmark pages. A test compares them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .doc_tables import TABLES, Rows
from .sentences import SENTENCES

ROOT = Path(__file__).resolve().parents[2]
GROUPS = {"selection": ("pool", "budget"), "sft": ("pool", "budget"), "probe": ("label",), "sensitivity": ("topic",)}
FIELD = re.compile(r"\{([^{}]*)\}")
NUMBER = r"([+−]?\d+(?:\.\d+)?(?: %)?)"


def load_results() -> Rows:
    """The rows of every result file."""
    folder = ROOT / "benchmarks/results"
    names = (*GROUPS, "findings")
    return {name: json.loads((folder / f"quality_{name}.json").read_text())["rows"] for name in names}


def expected_sentences(page: str, tables: Rows) -> Iterator[tuple[str, list[str]]]:
    """Every sentence template of a page, with its figures from the results."""
    for selector, template in SENTENCES[page]:
        table, *group = selector.split(" | ")
        keys = GROUPS[table]
        selected = [row for row in tables[table] if [str(row[key]) for key in keys] == group[: len(keys)]]
        measure = "".join(group[len(keys) :])
        yield template, [format_figure(selected, measure, field) for field in FIELD.findall(template)]


def format_figure(rows: list[dict[str, Any]], measure: str, field: str) -> str:
    """One figure: `method | spec`, or `method | measure | spec`. A spec is Python's or `%`, after an optional Δ or ±.

    Raises:
        ValueError: If not exactly one row has it.
    """
    method, *measures, spec = (part.strip() for part in field.split("|"))
    measure = measures[0] if measures else measure
    matches = [row for row in rows if (row["method"], row["measure"]) == (method, measure)]
    if len(matches) != 1:
        raise ValueError(f"{len(matches)} rows have {method}, {measure}: one is needed.")
    value = matches[0][{"Δ": "difference", "±": "difference_half_width"}.get(spec[0], "mean")]
    spec = spec.lstrip("Δ±")
    text = f"{100 * value:.0f} %" if spec == "%" else f"{value:{spec}}"
    return text.replace("-", "−")


def sentence_pattern(template: str) -> str:
    """Regular expression of a sentence: any figures, line breaks anywhere."""
    words = [re.sub(r"(?:\\ )+", r"\\s+", re.escape(text)) for text in FIELD.sub("\0", template).split("\0")]
    return NUMBER.join(words)


def table_pattern(head: str) -> re.Pattern[str]:
    """Regular expression of a table: header, rule and body."""
    return re.compile(rf"^{re.escape(head)}\n(\|[-:| ]+\|\n)((?:\|.*\|\n)*)", re.MULTILINE)


def update_page(page: str) -> None:
    """Write the figures of the results into the sentences and tables of a page. Re-read the prose afterwards.

    Raises:
        ValueError: If the page lacks a sentence.
    """
    text, tables = (ROOT / page).read_text(), load_results()
    for template, figures in expected_sentences(page, tables):
        match = re.search(sentence_pattern(template), text)
        if match is None:
            raise ValueError(f"{page} does not say: {template}")
        for number in reversed(range(len(figures))):
            text = text[: match.start(number + 1)] + figures[number] + text[match.end(number + 1) :]
    for head, lines in TABLES.items():
        for match in table_pattern(head).finditer(text):
            text = text[: match.start(2)] + "".join(f"{line}\n" for line in lines(tables)) + text[match.end(2) :]
            break
    (ROOT / page).write_text(text)
