"""A script under torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("ddp_gip.py")


def launched(out: Path, mode: str, ranks: int, script: Path = SCRIPT) -> tuple[int, list[dict]]:
    """How the job ended, and what each rank wrote; a hang fails after 300 seconds."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    paths = os.pathsep.join([str(SCRIPT.parent), str(SCRIPT.parent.parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [*torchrun, str(script), str(out), mode]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    sys.stderr.write(ended.stderr)  # shown where a test fails
    return ended.returncode, [json.loads(path.read_text()) for path in sorted(out.glob(f"{mode}-{ranks}-*.json"))]
