"""The page as a real browser shows it: every pick there, searchable, nothing requested, nothing executed from data."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, config

import hf_gip
from hf_gip.core.explain import explain, novelty_of_picks
from hf_gip.page.write import write_page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "</script><script>document.title='taken'</script><img src=x onerror=alert(1)> & $picks"


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")


def pool() -> Dataset:
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(["alpha", "beta", "gamma", "delta"], 6)) for _ in range(60)]
    return Dataset.from_dict({"text": [EVIL, *texts[1:]], "good": draw.integers(0, 5, 60).astype(float).tolist()})


def shown(page: Path) -> str:
    """The document after its script has run, as headless Chromium dumps it."""
    if BROWSER is None:
        pytest.skip("no Chromium on this machine")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--dump-dom"]
    return subprocess.run([*command, page.as_uri()], capture_output=True, text=True, check=True, timeout=120).stdout


def table(page: Path) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_a_browser_shows_every_pick_with_its_gain(tmp_path: Path) -> None:
    subset = pool().gip_select(60, encoder="lexical", scores=["good"])
    page = subset.selection.report(tmp_path / "report.html")
    dom = shown(page)
    rows = re.findall(r"<tr><td[^>]*>(\d+)</td><td[^>]*>(\d+)</td>", dom.partition("<tbody")[2])
    assert [int(row) for _, row in rows] == subset.selection.indices.tolist()[:50]
    assert "60 of 60 picks, page 1 of 2" in dom
    assert dom.count("<img alt=") == 4  # gains, map, one score, lengths — and none that a row smuggled in
    assert "<title>60 rows chosen by gip</title>" in dom


def test_the_page_asks_nothing_of_the_network_and_texts_stay_texts(tmp_path: Path) -> None:
    subset = pool().gip_select(60, encoder="lexical")
    page = hf_gip.write_report(subset, tmp_path / "report.html")
    source = page.read_text()
    assert not re.search(r"(src|href)=[\"'](?!data:)", source.replace(EVIL, ""))
    assert "default-src 'none'" in source
    assert EVIL not in source
    at = subset.selection.indices.tolist().index(0)
    assert table(page)["rows"][at][-1] == EVIL
    assert "60 rows chosen by gip" in shown(page)


def test_the_share_that_is_new_is_the_explanations_novelty(tmp_path: Path) -> None:
    rows = pool()
    subset = rows.gip_select(12, encoder="lexical", scores=["good"])
    page = table(subset.selection.report(tmp_path / "report.html"))
    column = [entry["name"] for entry in page["columns"]].index("new")
    for rank in (0, 5, 11):
        found = subset.selection.explain(int(subset.selection.indices[rank]))
        assert page["rows"][rank][column] == f"{found.novelty:.0%}"
    covered = rows.add_column("kind", ["a", "b"] * 30).gip_select(9, encoder="lexical", cover=["kind"])
    fresh = table(covered.selection.report(tmp_path / "covered.html"))["rows"]
    for rank in (0, 8):
        found = covered.selection.explain(int(covered.selection.indices[rank]))
        assert fresh[rank][column] == f"{found.novelty:.0%}"
    X = torch.randn(30, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    selection = hf_gip.gip(X, None, 9, noise=0.2)
    every = [explain(selection, int(row), X).novelty for row in selection.indices]
    assert novelty_of_picks(selection, X).tolist() == pytest.approx(every)


def test_a_subset_without_its_pool_is_reported_from_its_rows(tmp_path: Path) -> None:
    subset = pool().gip_select(9, encoder="lexical")
    bare = hf_gip.Selection(subset.selection.indices, subset.selection.gains, record=subset.selection.record)
    setattr(subset, "selection", bare)  # noqa: B010 — as after loading
    rows = table(hf_gip.write_report(subset, tmp_path / "report.html"))["rows"]
    assert [row[-1] for row in rows] == subset["text"][:]
    with pytest.raises(ValueError, match=r"^`report` needs the rows, which this selection does not hold: "):
        bare.report(tmp_path / "other.html")
    with pytest.raises(ValueError, match=r"^`subset` must be the result of a selecting function "):
        hf_gip.write_report(pool(), tmp_path / "other.html")


def test_fifty_thousand_picks_fit_a_page(tmp_path: Path) -> None:
    n = 50_000
    selection = hf_gip.Selection(torch.arange(n), torch.linspace(2, 1, n, dtype=torch.float64))
    page = write_page(tmp_path / "big.html", selection, texts=[f"row {i} " + "words " * 40 for i in range(n)])
    assert page.stat().st_size < 25e6
    assert "50,000 of 50,000 picks, page 1 of 1,000" in shown(page).replace("page 1 of 1000", "page 1 of 1,000")
    with pytest.raises(ValueError, match=r"^`texts` must hold one value per pick \(50000\), got 1\.$"):
        write_page(tmp_path / "big.html", selection, texts=["one"])
