"""The examples run as they stand, on real data; the notebook's cells too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
from datasets import config

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


def run(script: str, *words: object, cwd: Path) -> str:
    environment = os.environ | {"HF_DATASETS_CACHE": str(cwd / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(EXAMPLES / script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_dataset_is_filtered(data: Path, tmp_path: Path) -> None:
    said = run("filter.py", data / "alpaca.parquet", cwd=tmp_path)
    assert "| random, same size |" in said
    assert "was pick 6 and added" in said


def test_a_subset_is_saved_checked_and_chosen_again(data: Path, tmp_path: Path) -> None:
    said = run("publish.py", data / "alpaca.parquet", data / "gsm8k_test.parquet", "out", cwd=tmp_path)
    assert "out: verified" in said
    assert "same picks: 200 of 200 rows in common" in said


def test_the_notebook_runs_and_was_saved_with_what_it_showed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = json.loads((EXAMPLES / "filter.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] or cell is code[0] for cell in code)
    monkeypatch.setenv("SOURCE", str(data / "alpaca.parquet"))
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    names: dict[str, object] = {}
    for cell in code:
        exec("".join(line for line in cell["source"] if not line.startswith("%")), names)
    assert len(names["subset"]) == 100  # pyright: ignore[reportArgumentType]
