"""Peak memory and passes of `gip` over a file on disk: 1,000,000 x 384 float16 rows, written here."""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import write_results

from hf_gip import gip
from hf_gip.features.matrix_files import npy_rows


def write_rows(path: Path, n: int, d: int) -> None:
    """Clustered unit rows with a decaying spectrum, written piece by piece."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(256, d, generator=generator)
    spread = torch.arange(1, d + 1).float().rsqrt()
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(n, d))
    for start in range(0, n, 10_000):
        count = min(10_000, n - start)
        rows = centers[torch.randint(256, (count,), generator=generator)]
        rows = (rows + torch.randn(count, d, generator=generator)) * spread
        out[start : start + count] = torch.nn.functional.normalize(rows, dim=1).half().numpy()
    out.flush()


def main() -> None:
    """Select from the file, print, and write `results/out_of_core.*`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("k", type=int, nargs="?", default=10_000)
    parser.add_argument("n", type=int, nargs="?", default=1_000_000)
    arguments = parser.parse_args()
    k, n = arguments.k, arguments.n
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        writer = multiprocessing.get_context("spawn").Process(target=write_rows, args=(path, n, 384))
        writer.start()  # in a subprocess, so its memory does not count
        writer.join()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        passes = [0]
        start = time.perf_counter()
        selection = gip(npy_rows(path), None, k, progress=lambda picks, done: passes.__setitem__(0, done))
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    row = {"n": n, "d": 384, "k": k, "queries": "the rows themselves", "seconds": seconds, "passes": passes[0]}
    row |= {"picks_per_pass": k / passes[0], "peak_gib": peak, "gib_before": before, "captured": selection.captured}
    print(row)
    write_results(
        "out_of_core", [row], command=f"python benchmarks/out_of_core.py {k} {n}", packages=["torch", "numpy"]
    )


if __name__ == "__main__":
    main()
