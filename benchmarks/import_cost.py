"""What `import hf_gip` costs against `import datasets`: fresh interpreters, in turns, medians. Target: at most 1.2."""

import argparse
import statistics
import subprocess
import sys
import time

from machine import write_results

IMPORTS = {"import datasets": "import datasets", "import hf_gip": "import hf_gip"}
HEAVY = ("torch", "transformers", "trl", "sentence_transformers")
LOADED = f"import sys, hf_gip; print([name for name in {HEAVY} if name in sys.modules])"


def seconds(code: str) -> float:
    """Wall-clock time of a fresh interpreter that runs `code`."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure, print, and write `results/import_cost.*`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for code in IMPORTS.values():
        seconds(code)  # caches warm
    for _ in range(runs):
        for name, code in IMPORTS.items():
            times[name].append(seconds(code))
    base = statistics.median(times["import datasets"])
    rows = [
        {
            "what": name,
            "median_seconds": statistics.median(values),
            "min_seconds": min(values),
            "ratio": statistics.median(values) / base,
        }
        for name, values in times.items()
    ]
    heavy = subprocess.run([sys.executable, "-c", LOADED], check=True, capture_output=True, text=True).stdout.strip()
    write_results(
        "import_cost",
        rows,
        command=f"python benchmarks/import_cost.py --runs {runs}",
        packages=["datasets", "torch"],
        notes=[f"Loaded by `import hf_gip` among torch, transformers, trl, sentence_transformers: {heavy}."],
    )
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
