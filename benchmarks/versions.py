"""Speed and picks of `gip` in two checkouts, in turn on one machine: what a change costs.

python benchmarks/versions.py OTHER [--data ../shared/data] [--repeats 5]

OTHER is a checkout of another commit. The rows are the stored Alpaca vectors, the queries 64 of them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import write_results

HERE = Path(__file__).resolve().parents[1]
CASES = ((52_002, 5_000), (52_002, 1_000), (52_002, 100), (10_000, 2_000), (2_000, 100))
MEASURE = """
import json, sys, time
import numpy as np, torch
from hf_gip import gip
rows = torch.from_numpy(np.load(sys.argv[1], mmap_mode="r").astype(np.float32))
rows = torch.nn.functional.normalize(rows, dim=1)
queries = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:64]]
gip(rows[:2000], queries, 10)
for n, k in json.loads(sys.argv[2]):
    started = time.perf_counter()
    picks = gip(rows[:n], queries, k).indices.tolist()
    print(json.dumps({"n": n, "k": k, "seconds": time.perf_counter() - started, "picks": picks}))
"""


def measure(checkout: Path, data: Path) -> list[dict[str, Any]]:
    """All cases in a process of their own that imports the checkout's `hf_gip`."""
    words = [sys.executable, "-c", MEASURE, str(data / "alpaca_minilm_f16.npy"), json.dumps(CASES)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    output = subprocess.run(words, cwd=checkout, env=environment, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in output.splitlines()]


def main() -> None:
    """Measure in turn, print, and write `results/versions.*`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path)
    parser.add_argument("--data", type=Path, default=HERE.parent / "shared/data")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    runs = [
        (measure(arguments.other.resolve(), arguments.data), measure(HERE, arguments.data))
        for _ in range(arguments.repeats)
    ]
    table = []
    for number, (n, k) in enumerate(CASES):
        other, this = (statistics.median(run[side][number]["seconds"] for run in runs) for side in (0, 1))
        same = all(run[0][number]["picks"] == run[1][number]["picks"] for run in runs)
        table.append({"n": n, "k": k, "other_s": other, "this_s": this, "speed": other / this, "same_picks": same})
    command = f"python benchmarks/versions.py OTHER --data DATA --repeats {arguments.repeats}"
    write_results("versions", table, command=command, notes=["Medians; OTHER was commit " + commit(arguments.other)])
    print(json.dumps(table, indent=1))


def commit(checkout: Path) -> str:
    """The checkout's commit."""
    words = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
