"""The page as a real browser shows it: every pick there, searchable, nothing requested, nothing executed from data."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import samples
import torch
from datasets import Dataset
from report_page import table

import hf_gip
from hf_gip.core.explain import explain, summarize_picks
from hf_gip.core.gip import gip
from hf_gip.dataset.report import write_page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "</script><script>document.title='taken'</script><img src=x onerror=alert(1)> & $picks"


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
    covered = rows.add_column("kind", ["a", "b"] * 30).gip_select(9, encoder="lexical", cover_columns=["kind"])
    fresh = table(covered.selection.report(tmp_path / "covered.html"))["rows"]
    for rank in (0, 8):
        found = covered.selection.explain(int(covered.selection.indices[rank]))
        assert fresh[rank][column] == f"{found.novelty:.0%}"


@pytest.mark.parametrize("objective", ["projection", "information"])
@pytest.mark.parametrize("block", [1, 4, 512])
@pytest.mark.parametrize("weighted", [True, False])
def test_the_reasons_of_all_picks_are_their_explanations(
    objective: str, block: int, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_gip.core.explain.BLOCK", block)
    X, Q = samples.rows(40, 6, seed=block, duplicates=8), samples.queries(4, 6)
    w = torch.linspace(0.2, 1, 40, dtype=torch.float64) if weighted else None
    for asked, names in ((Q, None), (Q, [None, 7, "source=wiki", None]), (Q, [None] * 4), (None, None)):
        selection = gip(X, asked, 25, noise=0.2, objective=objective, precision=w)
        found = summarize_picks(selection, X, asked, precision=w, names=names)
        picks = selection.indices.tolist()
        unit = X / X.norm(dim=1, keepdim=True)
        for place, row in enumerate(picks):
            told = explain(selection, row, X, asked, precision=w, names=names)
            assert float(found.novelty[place]) == pytest.approx(told.novelty, abs=1e-9)
            assert [name for name, _ in found.served[place]] == [name for name, _ in told.served[:2]]
            assert [share for _, share in found.served[place]] == pytest.approx(
                [share for _, share in told.served[:2]]
            )
            cosines = (unit[picks[:place]] @ unit[row]).tolist()
            assert (int(found.most_similar[place]) == -1) == (place == 0)
            assert float(found.cosine[place]) == pytest.approx(max(cosines, default=0.0), abs=1e-6)
            if place:
                assert cosines[int(found.most_similar[place])] == pytest.approx(max(cosines), abs=1e-6)


def test_the_table_says_what_a_pick_serves_and_what_it_repeats(tmp_path: Path) -> None:
    rows = pool().add_column("kind", ["a", "b"] * 30)
    subset = rows.gip_select(12, encoder="lexical", target=["alpha alpha", "gamma delta"], cover_columns=["kind"])
    page = table(subset.selection.report(tmp_path / "report.html"))
    names = [entry["name"] for entry in page["columns"]]
    assert names == ["pick", "row", "gain", "new", "serves", "most like", "text"]
    for rank in (0, 3, 11):
        told = subset.selection.explain(int(subset.selection.indices[rank]))
        words = ", ".join(f"{q if isinstance(q, str) else f'query {q}'} ({share:.0%})" for q, share in told.served[:2])
        assert page["rows"][rank][names.index("serves")] == words
    like = [row[names.index("most like")] for row in page["rows"]]
    assert like[0] == ""
    assert all(re.fullmatch(r"row \d+ \(-?[01]\.\d\d\)", words) for words in like[1:])
    own = table(rows.gip_select(3, encoder="lexical").selection.report(tmp_path / "own.html"))
    assert "serves" not in [entry["name"] for entry in own["columns"]]


def test_a_column_may_be_called_like_one_of_the_pages_own(tmp_path: Path) -> None:
    subset = pool().rename_column("good", "gain").gip_select(5, encoder="lexical", scores=["gain"])
    page = table(subset.selection.report(tmp_path / "report.html"))
    assert {len(row) for row in page["rows"]} == {len(page["columns"])}


def test_weights_are_shown_by_the_names_of_their_targets(tmp_path: Path) -> None:
    subset = pool().select(range(3))
    told = {"method": "gtp", "target": [{"name": "maths"}, {"name": "code"}]}
    curves = {"weight_0": torch.tensor([1.0, 0.0, 2.0]), "weight_1": torch.tensor([0.5, 1.0, 0.0])}
    gains, both = torch.tensor([3.0, 2.0, 1.0]), curves["weight_0"] + curves["weight_1"]
    selection = hf_gip.Selection(torch.arange(3), gains, weights=both, record=told, curves=curves)
    setattr(subset, "selection", selection)  # noqa: B010 — as after loading
    page = table(hf_gip.write_report(subset, tmp_path / "report.html"))
    assert [entry["name"] for entry in page["columns"]][3:6] == ["weight", "weight for maths", "weight for code"]
    assert page["rows"][0][3:6] == ["1.5", "1", "0.5"]


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
    said = {"serves": ["query 12 (60%), query 3 (20%)"] * n, "most like": ["row 4,211 (0.93)"] * n}
    texts = [f"row {i} " + "words " * 40 for i in range(n)]
    page = write_page(tmp_path / "big.html", selection, texts=texts, columns={"new": ["4%"] * n}, remarks=said)
    assert page.stat().st_size < 25e6
    assert "50,000 of 50,000 picks, page 1 of 1,000" in shown(page).replace("page 1 of 1000", "page 1 of 1,000")
    with pytest.raises(ValueError, match=r"^`texts` must hold one value per pick \(50000\), got 1\.$"):
        write_page(tmp_path / "big.html", selection, texts=["one"])
