"""SPICE beyond Python's own door: the command line, saved folders selected again, picks explained."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import hf_gip as command
from command_line import refusal
from datasets import Dataset
from oracles_spice import conflict, gain, log_det
from tiny_models import tiny_model, tiny_rows
from tiny_trainers import tiny_llama, word_rows, word_tokenizer

import hf_gip
from hf_gip.features.gradients import gradient_features
from hf_gip.manifest.schema import read_manifest


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def proxy(tmp_path: Path) -> Path:
    tokenizer = word_tokenizer(30)
    tiny_llama(len(tokenizer)).save_pretrained(tmp_path / "proxy")
    tokenizer.save_pretrained(tmp_path / "proxy")
    word_rows(30).to_parquet(tmp_path / "pool.parquet")
    return tmp_path / "proxy"


def pool(n: int = 30) -> Dataset:
    return Dataset.from_list(tiny_rows(n))


def test_the_command_line_chooses_what_python_does(
    proxy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["spice", tmp_path / "pool.parquet", "--k", 6, "--model", proxy, "--window", 10, "--update-every", 2]
    assert command(*words, "--id-column", "uid", "--out", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "Read 30 rows of 2 columns from 'pool.parquet'" in shown
    assert re.search(r"Chose 6 rows in [\d.]+ s: objective [\d.e-]+\.", shown)
    expected = hf_gip.spice_select(word_rows(30), 6, model=str(proxy), window=10, update_every=2)
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.method, manifest.parameters["update_every"]) == ("spice", 2)
    saved = Dataset.from_parquet([str(path) for path in (tmp_path / "out" / "data").iterdir()])
    assert saved["text"][:] == expected["text"][:]
    assert command("verify", tmp_path / "out", "--source", tmp_path / "pool.parquet") == 0
    assert command("reproduce", tmp_path / "out", "--source", tmp_path / "pool.parquet", "--model", proxy) == 0
    whole = [
        "spice",
        tmp_path / "pool.parquet",
        "--stop-ratio",
        0.5,
        "--model",
        proxy,
        "--frozen-proxy",
        "--window",
        0,
    ]
    raw = ["--no-normalize", "--alpha", 2, "--absolute-alpha", "--update-every", 1]
    assert command(*whole, *raw, "--out", tmp_path / "whole") == 0
    recorded = read_manifest(tmp_path / "whole").parameters
    assert {name: recorded[name] for name in ("k", "window", "normalize", "alpha", "absolute_alpha")} == {
        "k": None,
        "window": None,
        "normalize": False,
        "alpha": 2.0,
        "absolute_alpha": True,
    }
    assert command("reproduce", tmp_path / "whole", "--source", tmp_path / "pool.parquet", "--model", proxy) == 0


def test_the_command_line_refuses_in_one_sentence(
    proxy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["spice", tmp_path / "pool.parquet", "--model", proxy, "--out", tmp_path / "out"]
    assert refusal(capsys, *words, "--k", 31) == (
        "`--k` must be a whole number between 1 and the number of rows (30), got 31."
    )
    assert refusal(capsys, *words, "--k", 3, "--window", 0) == (
        "`--window 0`, all rows at once, needs a proxy that stays as it is: add `--frozen-proxy`."
    )
    assert refusal(capsys, *words, "--k", 3, "--update-every", 0) == (
        "`--update-every` must be at least 1, got 0: for a proxy left as it is, add `--frozen-proxy`."
    )
    message = "`--k` must be a number of rows where no `--stop-ratio` ends a window, got neither."
    assert refusal(capsys, *words) == message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"window": 10, "update_every": 2, "stop_ratio": 0.9, "normalize": False},
        {"window": None, "update_every": None, "alpha": 0.5},
    ],
)
def test_a_saved_subset_is_selected_again(tmp_path: Path, options: dict[str, Any]) -> None:
    subset = hf_gip.spice_select(pool(), 9, model=tiny_model(), projection_dim=100, seed=2, **options)
    hf_gip.save_subset(subset, tmp_path / "out")
    again = hf_gip.reproduce(tmp_path / "out", source=pool(), model=tiny_model(), device="cpu")
    assert (again.verdict, again.common) == ("same picks", len(subset))
    message = "`model` must be passed again: the manifest names 'LlamaForCausalLM' and does not hold it."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hf_gip.reproduce(tmp_path / "out", source=pool())
    message = (
        "`model` must be the recorded proxy 'LlamaForCausalLM', got 'LlamaForCausalLM' with other weights: give the "
        "model and tokenizer it was chosen with."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hf_gip.reproduce(tmp_path / "out", source=pool(), model=tiny_model(seed=1))


def test_what_spice_never_had_is_refused(tmp_path: Path) -> None:
    hf_gip.save_subset(hf_gip.spice_select(pool(), 3, model=tiny_model()), tmp_path / "out")
    for name in ("target", "checkpoints", "features", "encoder", "exclude"):
        message = f"`{name}` must be left out, got ['x']: a subset chosen by spice has none."
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            hf_gip.reproduce(tmp_path / "out", source=pool(), model=tiny_model(), **{name: ["x"]})


def test_a_row_left_out_by_a_frozen_proxy_is_explained_from_a_folder(
    proxy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = hf_gip.spice_select(word_rows(30), 4, model=str(proxy), update_every=None, window=10)
    hf_gip.save_subset(chosen, tmp_path / "out")
    other = next(row for row in range(30) if row not in chosen.selection.indices.tolist())
    words = ["explain", tmp_path / "out", other, "--source", tmp_path / "pool.parquet"]
    assert refusal(capsys, *words) == (
        "`--model` must be passed again: the manifest names 'proxy' and does not hold it."
    )
    assert command(*words, "--model", proxy) == 0
    assert capsys.readouterr().out.replace("\n", " ").startswith(str(chosen.selection.explain(other)))
    page = ["report", tmp_path / "out", "--source", tmp_path / "pool.parquet", "--out", tmp_path / "page.html"]
    assert command(*page) == 0
    page_text = (tmp_path / "page.html").read_text()
    assert all(word_rows(30)[row]["text"] in page_text for row in chosen.selection.indices.tolist())


def test_texts_are_selected_again_by_the_proxy_in_its_folder(proxy: Path, tmp_path: Path) -> None:
    hf_gip.save_subset(hf_gip.spice_select(word_rows(30), 5, model=str(proxy)), tmp_path / "out")
    again = hf_gip.reproduce(tmp_path / "out", source=word_rows(30), model=str(proxy), device="cpu")
    assert again.verdict == "same picks"


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("window", "fisher"), [(None, "full"), (10, "full"), (None, "diagonal")])
def test_a_row_left_out_is_explained_by_its_gradient(window: int | None, fisher: Any, normalize: bool) -> None:
    options: dict[str, Any] = {"target_modules": "*.down_proj", "projection_dim": None}
    gradients = (
        gradient_features(tiny_model(), tiny_rows(30), normalize=normalize, **options).features.double().numpy()
    )
    rule: dict[str, Any] = {
        "window": window,
        "update_every": None,
        "fisher": fisher,
        "seed": 3,
        "normalize": normalize,
    }
    chosen = hf_gip.spice_select(pool(), 6, model=tiny_model(), **options, **rule).selection
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3)).tolist()
    for row in set(range(30)) - set(chosen.indices.tolist()):
        near = range(30) if window is None else order[order.index(row) // 10 * 10 :][:10]
        picks = [pick for pick in chosen.indices.tolist() if pick in near]
        G = gradients / np.sqrt((gradients[near] ** 2).sum(axis=1).mean())
        found = chosen.explain(row)
        assert found.rank is None
        assert found.gain == pytest.approx(gain(G, row, picks, 0.01, fisher), rel=1e-4)
        assert found.first_gain == pytest.approx(log_det(G, [row], 0.01), rel=1e-4)
        assert found.conflict == pytest.approx(conflict(G, row, picks), abs=1e-5)
        assert sum(lost for _, lost in found.covered_by) <= found.first_gain - found.gain + 1e-9
        assert {pick for pick, _ in found.covered_by} <= set(picks)


def test_a_pick_is_explained_by_what_it_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subset = hf_gip.spice_select(pool(), 6, model=tiny_model())
    chosen = subset.selection
    row = int(chosen.indices[4])
    found = chosen.explain(row)
    assert (found.rank, found.gain) == (5, float(chosen.gains[4]))
    assert found.first_gain == pytest.approx(float(chosen.gains[4] - chosen.curves["overlap"][4]))
    assert found.conflict == float(chosen.curves["conflict"][4])
    assert str(found).startswith(f"Row {row} was pick 5 and added ")
    pool().to_parquet(tmp_path / "pool.parquet")
    hf_gip.save_subset(subset, tmp_path / "out")
    assert command("explain", tmp_path / "out", row, "--source", tmp_path / "pool.parquet") == 0
    assert capsys.readouterr().out.replace("\n", " ").startswith(str(found))
    other = next(row for row in range(30) if row not in chosen.indices.tolist())
    message = (
        f"`row` must be one of the 6 chosen rows, got {other}: what a row left out would have added needs its "
        "gradient, which only a frozen proxy (`update_every=None`) still gives."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        chosen.explain(other)
    capsys.readouterr()
    words = ["explain", tmp_path / "out", other, "--source", tmp_path / "pool.parquet"]
    assert refusal(capsys, *words, "--model", "any") == message
    assert refusal(capsys, *words, "--checkpoint", "any") == (
        "`--checkpoint` must be left out, got ['any']: a subset chosen by spice has none."
    )
    with pytest.raises(ValueError, match=r"^`row` must be a row of the pool, 0 to 29, got 30\.$"):
        chosen.explain(30)


def test_the_report_page_shows_the_rows(tmp_path: Path) -> None:
    rows = word_rows(30)
    chosen = hf_gip.spice_select(rows, 4, model=tiny_llama(153), tokenizer=word_tokenizer(30)).selection
    page = chosen.report(tmp_path / "page.html").read_text()
    assert all(rows[row]["text"] in page for row in chosen.indices.tolist())
