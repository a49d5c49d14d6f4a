"""No figure of the README's evidence section or of docs/evidence.md without its row in a results file."""

import re

import pytest

from benchmarks.evidence.doc_tables import BLOCKS
from benchmarks.evidence.update_docs import ROOT, block, pattern, results, said

FIGURE = re.compile(r"\d+ %|\d\.\d+")
AGAIN = "python benchmarks/quality.py --only page"
CLAIMS = {"README.md": ("## Does it beat random?", "## Limits"), "docs/evidence.md": ("## In short", "## How it is")}


@pytest.mark.parametrize("page", CLAIMS)
def test_every_sentence_has_its_figures_from_the_results(page: str) -> None:
    text = (ROOT / page).read_text()
    for template, figures in said(page, results()):
        found = re.search(pattern(template), text)
        assert found, f"{page} does not say: {template}"
        assert list(found.groups()) == figures, f"{AGAIN}: {template}"


@pytest.mark.parametrize("page", CLAIMS)
def test_what_is_claimed_has_no_other_figures(page: str) -> None:
    begin, end = CLAIMS[page]
    text = (ROOT / page).read_text()
    text = text[text.index(begin) : text.index(end)].replace("95 %", "")
    for template, _ in said(page, results()):
        text = re.sub(pattern(template), "", text)
    assert not FIGURE.findall(text)


@pytest.mark.parametrize("head", BLOCKS)
def test_every_table_of_the_page_is_that_of_the_results(head: str) -> None:
    found = block(head).search((ROOT / "docs/evidence.md").read_text())
    assert found, f"docs/evidence.md has no table {head}"
    assert found[2].splitlines() == BLOCKS[head](results()), AGAIN
