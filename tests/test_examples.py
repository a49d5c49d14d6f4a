"""The examples run as they stand, on real data; the notebook's cells too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from datasets import config

from hf_gip import gip, load_subset

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


def test_the_demo_does_the_main_job_on_fewer_rows(tmp_path: Path) -> None:
    fewer = (
        f"import sys; sys.path.insert(0, {str(EXAMPLES)!r})\nimport demo\ndemo.ROWS, demo.PICKS = 150, 12\ndemo.main()"
    )
    environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "MPLBACKEND": "agg"}
    command = [sys.executable, "-c", fewer]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "12 picks towards asyncio" in done.stdout
    assert len(load_subset(tmp_path / "demo-output" / "subset")) == 12


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


@pytest.mark.ddp
def test_processes_that_share_a_matrix_save_the_picks_of_one(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((601, 16)).astype("float32")
    np.save(tmp_path / "vectors.npy", vectors)
    words = [
        "--standalone",
        "--nproc-per-node",
        "2",
        str(EXAMPLES / "select_many_gpus.py"),
        "vectors.npy",
        "8",
        "picks.npy",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", *words]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, env=environment, timeout=300)
    want = gip(torch.from_numpy(vectors), None, 8).indices
    assert np.load(tmp_path / "picks.npy").tolist() == want.tolist()
