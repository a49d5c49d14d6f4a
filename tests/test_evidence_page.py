"""Every figure of the README's quality section and of the benchmark pages has its row in a results file."""

import re

import pytest

from benchmarks.evidence.doc_tables import TABLES
from benchmarks.evidence.sentences import DETAILS_PAGE
from benchmarks.evidence.update_docs import ROOT, expected_sentences, load_results, sentence_pattern, table_pattern

FIGURE = re.compile(r"\d+ %|\d\.\d+")
COMMAND = "python benchmarks/quality.py --only page"
CLAIMS = {
    "README.md": ("## Does it beat random?", "## Limits"),
    "docs/benchmarks.md": ("## Summary", "## Method"),
    DETAILS_PAGE: ("## Results", "## Method"),
}


@pytest.mark.parametrize("page", CLAIMS)
def test_every_sentence_has_its_figures_from_the_results(page: str) -> None:
    text = (ROOT / page).read_text()
    for template, figures in expected_sentences(page, load_results()):
        match = re.search(sentence_pattern(template), text)
        assert match, f"{page} does not say: {template}"
        assert list(match.groups()) == figures, f"{COMMAND}: {template}"


@pytest.mark.parametrize("page", CLAIMS)
def test_what_is_claimed_has_no_other_figures(page: str) -> None:
    begin, end = CLAIMS[page]
    text = (ROOT / page).read_text()
    text = text[text.index(begin) : text.index(end)].replace("95 %", "")
    for template, _ in expected_sentences(page, load_results()):
        text = re.sub(sentence_pattern(template), "", text)
    assert not FIGURE.findall(text)


@pytest.mark.parametrize("head", TABLES)
def test_every_table_of_the_page_is_that_of_the_results(head: str) -> None:
    match = table_pattern(head).search((ROOT / DETAILS_PAGE).read_text())
    assert match, f"{DETAILS_PAGE} has no table {head}"
    assert match[2].splitlines() == TABLES[head](load_results()), COMMAND
