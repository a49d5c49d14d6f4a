"""The training examples run as a user runs them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import hf_gip

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(*command: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(("script", "epochs"), [("train_reselect.py", 3), ("train_lora_packing.py", 2)])
def test_an_example_leaves_a_run_that_verifies(script: str, epochs: int, tmp_path: Path) -> None:
    out = tmp_path / "run"
    said = run(str(EXAMPLES / script), "--out", str(out))
    assert f"hf-gip verify {out}" in said
    assert hf_gip.verify(out)
    assert len(list((out / "gip").glob("selection_epoch_*.parquet"))) == epochs


@pytest.mark.ddp
def test_the_example_for_two_processes_is_launched_by_accelerate(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--main_process_port", str(port)]
    said = run(*launch, str(EXAMPLES / "train_two_processes.py"), "--cpu", "--out", str(out))
    assert f"2 process(es), selections in {out}/gip" in said
    assert hf_gip.verify(out)
