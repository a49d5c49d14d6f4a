"""What is spent on checks and digests beside the greedy, and how fast rows are hashed.

Run `python benchmarks/checks.py`: `gip_select` of 100 of the 52,002 Alpaca rows by their ready vectors, each part's
share by the profiler, the quickest of three calls; and digests of the same rows and of a million made ones.
"""

import cProfile
import pstats
import string
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, disable_caching, disable_progress_bars
from machine import write_results

import hf_gip
from hf_gip.hashing import hash_array, hash_rows, hash_texts

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CALLS = 3
PARTS = {
    "greedy": ("core/engine/",),
    "preparation": ("core/setting.py", "core/queries.py", "core/captured.py"),
    "checks": ("core/checks.py", "core/gip_checks.py", "dataset/columns.py", "dataset/options.py"),
    "digests": ("hf_gip/hashing.py",),
}


def seconds_in(profile: cProfile.Profile, files: tuple[str, ...]) -> float:
    """Seconds in functions of these files and in what they call, counted where they are entered from elsewhere."""
    stats: dict[Any, Any] = pstats.Stats(profile).stats  # pyright: ignore[reportAttributeAccessIssue]
    inside = {function for function in stats if any(part in function[0].replace("\\", "/") for part in files)}
    return sum(
        callers[3] for function in inside for caller, callers in stats[function][4].items() if caller not in inside
    )


def shares(call: Callable[[], Any]) -> dict[str, Any]:
    """Seconds of the quickest call and the share of each part in it."""
    call()
    best: dict[str, Any] = {}
    for _ in range(CALLS):
        profile, start = cProfile.Profile(), time.perf_counter()
        profile.runcall(call)
        whole = time.perf_counter() - start
        if not best or whole < best["seconds"]:
            parts = {name: seconds_in(profile, files) / whole for name, files in PARTS.items()}
            best = {"seconds": whole, **parts, "rest": 1 - sum(parts.values())}
    return best


def quickest(call: Callable[[], Any]) -> float:
    """Seconds of the quickest call."""
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Measure both and write the table."""
    disable_caching()
    disable_progress_bars()
    matrix = np.load(DATA / "alpaca_minilm_f16.npy").astype(np.float32)
    alpaca = Dataset.from_parquet(str(DATA / "alpaca.parquet"))
    assert isinstance(alpaca, Dataset)
    kind = pa.list_(pa.float32(), matrix.shape[1])
    column = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), type=kind)
    vectors = Dataset(pa.table({"vector": column}))
    calls = {
        "matrix": lambda: hf_gip.gip_select(alpaca, 100, features=matrix),
        "matrix, scores": lambda: hf_gip.gip_select(alpaca, 100, features=matrix, scores=["score_gpt4o_mini"]),
        "matrix, 64 targets": lambda: hf_gip.gip_select(alpaca, 100, features=matrix, target=matrix[:64]),
        "column": lambda: hf_gip.gip_select(vectors, 100, features="vector"),
    }
    lines: list[dict[str, Any]] = [
        {"of": f"gip_select, 52,002 × {matrix.shape[1]}, k = 100: {name}", **shares(call)}
        for name, call in calls.items()
    ]
    letters = np.random.default_rng(0).choice(list(string.ascii_lowercase + " "), (1_000, 200))
    texts = ["".join(row) for row in letters]
    million = Dataset(pa.table({"text": pa.array([f"{texts[i % 1_000][:193]}{i:07}" for i in range(1_000_000)])}))
    order = np.random.default_rng(0).permutation(len(million))
    digests = {
        "hash_rows, 52,002 Alpaca rows": lambda: hash_rows(alpaca),
        "hash_rows, 52,002 Alpaca rows, shuffled": lambda: hash_rows(alpaca.shuffle(seed=0)),
        "hash_rows, 1,000,000 rows of 200 characters": lambda: hash_rows(million),
        "hash_rows, 1,000,000 rows of 200 characters, shuffled": lambda: hash_rows(million.select(order)),
        "hash_texts, 1,000,000 texts of 200 characters": lambda: hash_texts(million["text"][:]),
        f"hash_array, 52,002 × {matrix.shape[1]} float32": lambda: hash_array(matrix),
    }
    lines += [{"of": name, "seconds": quickest(call)} for name, call in digests.items()]
    write_results(
        "checks",
        lines,
        command="python benchmarks/checks.py",
        packages=("torch", "datasets"),
        notes=[
            "Shares of the seconds of one call, by `cProfile`: the greedy is `hf_gip/core/engine`, the preparation "
            "the units and the queries, checks those of arguments and of finite numbers with the reading of columns, "
            "the rest the record and the chosen rows. `hash_texts` counts the making of the list of texts too.",
            "Measured beside other work on the same cores: the shares say more than the seconds.",
        ],
    )


if __name__ == "__main__":
    main()
