"""The training examples run as a user runs them."""

import subprocess
import sys
from pathlib import Path

import hf_gip

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_train_reselect_leaves_a_run_that_verifies(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, str(EXAMPLES / "train_reselect.py"), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert hf_gip.verify(out)
    assert len(list((out / "gip").glob("selection_epoch_*.parquet"))) == 3
