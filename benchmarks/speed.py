"""Speed of the engine, of the plain loop and of every peer: seconds, memory, and one common objective.

python benchmarks/speed.py [--data ../shared/data] [--only plain peers scaling prefilter] [--n 52002] [--k 5000]
    [--m 64]

Each call runs in a subprocess, so its peak memory is its own. The objective is computed in float64, the same for all.
The rows are the stored Alpaca vectors, or synthetic ones if the folder is missing.
"""

# pyright: reportMissingImports=false
# (the plain loop lives with the tests)

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from machine import write_results
from peers import PEERS, captured

from hf_gip import gip
from hf_gip.core.engine.greedy import BLOCK, greedy
from hf_gip.core.matrix import InMemoryMatrix
from hf_gip.core.normalize import normalize_problem

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))  # the plain loop is the tests' reference

Case = dict[str, Any]
BLOCKS = [{"block": 1}, {"block": 8}, {"block": 32}, {"block": 128}]
RANKS = [{"n": 52_002, "ranks": 1}, {"n": 52_002, "ranks": 2}]


def vectors(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit rows (n, d), real if available, and queries (m, d): a sample of the rows with noise."""
    n, d, m = case["n"], case["d"], case["m"]
    path = Path(case["data"]) / "alpaca_minilm_f16.npy"
    generator = torch.Generator().manual_seed(0)
    if path.exists() and d == 384 and n <= 52_002:
        rows = torch.from_numpy(np.load(path, mmap_mode="r")[:n].astype(np.float32))
    else:
        centers = torch.randn(256, d, generator=generator)
        spread = torch.arange(1, d + 1).float().rsqrt()
        rows = (
            centers[torch.randint(256, (n,), generator=generator)] + torch.randn(n, d, generator=generator)
        ) * spread
    rows = torch.nn.functional.normalize(rows, dim=1)
    sampled = rows[torch.randperm(n, generator=generator)[:m]]
    queries = sampled + 0.5 * d**-0.5 * torch.randn(sampled.shape, generator=generator)
    return rows, torch.nn.functional.normalize(queries, dim=1)


def run(case: Case) -> Case:
    """One selection in this process: seconds, processor seconds, extra peak memory, picks."""
    rows, queries = vectors(case)
    name, k, noise = case["method"], case["k"], case["noise"]
    warm_up(name.partition(" prefilter")[0])
    if "block" in case:
        greedy.__kwdefaults__ = (greedy.__kwdefaults__ or {}) | {"block": case["block"]}  # not a public option
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    picks, passes = select(name, rows, queries, k, noise, "ranks" in case)
    seconds, cpu = time.perf_counter() - wall, time.process_time() - cpu
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    share = captured(rows, queries, picks, noise)
    answer = {"seconds": seconds, "cpu_seconds": cpu, "extra_mib": extra, "rows": len(picks), "captured": share}
    if passes and name != "plain loop":
        answer["times_bare_products"] = seconds / (passes * bare_product_seconds(rows))
    return answer | {"passes": passes, "picks": picks}


def bare_product_seconds(rows: torch.Tensor) -> float:
    """Seconds of one product of all rows with 64 columns, which every exact verification of 64 drafts needs."""
    columns, out = torch.randn(rows.shape[1], 64), torch.empty(2048, 64)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        for first in range(0, len(rows) - 2047, 2048):
            torch.mm(rows[first : first + 2048], columns, out=out)
        times.append(time.perf_counter() - start)
    return min(times)


def select(
    name: str, rows: torch.Tensor, queries: torch.Tensor, k: int, noise: float, ranks: bool = False
) -> tuple[list[int], int | None]:
    """The picks of one method, and its number of passes over the rows if known."""
    if name in PEERS:
        return PEERS[name](rows.numpy(), queries.numpy(), k), None
    if name == "plain loop":
        from plain_loops import project

        problem = normalize_problem(InMemoryMatrix(rows), queries, None)
        return project(rows, problem.scale, problem.queries, k, noise).indices.tolist(), k
    passes = [0]
    shortlist = int(name.rpartition(" ")[2]) if "prefilter" in name else None
    group = dist.group.WORLD if ranks else None
    own_rows = rows.chunk(dist.get_world_size())[dist.get_rank()] if ranks else rows
    count_passes = lambda done, count: passes.__setitem__(0, count)  # noqa: E731
    result = gip(own_rows, queries, k, noise=noise, prefilter=shortlist, group=group, progress=count_passes)
    return result.indices.tolist(), passes[0]


def warm_up(name: str) -> None:
    """Run a small case, so that loading and compiling are not timed."""
    rows = torch.nn.functional.normalize(torch.randn(300, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    select(name, rows, rows[:8] * 0.5, 20, 0.1)


def run_in_subprocess(case: Case) -> Case:
    """`run` in a subprocess."""
    ranks = case.get("ranks", 0)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks else []
    call = [sys.executable, *torchrun, str(Path(__file__).resolve()), "--case", json.dumps(case)]
    threads = {"OMP_NUM_THREADS": "1"} if ranks else {}
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=os.environ | threads)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1][:120] if done.stderr.strip() else str(done.returncode)}
    answer = json.loads(done.stdout.splitlines()[-1])
    print(case["method"], {key: value for key, value in answer.items() if key != "picks"}, flush=True)
    return answer


def compare_with_plain_loop(base: Case) -> list[Case]:
    """The engine and the plain loop on the same problem, at two ridges."""
    lines = []
    for noise in (0.1, 10 * base["k"] / base["d"]):
        case = base | {"noise": noise}
        ours, plain = (
            run_in_subprocess(case | {"method": "hf_gip.gip"}),
            run_in_subprocess(case | {"method": "plain loop"}),
        )
        shared = len(set(ours["picks"]) & set(plain["picks"])) / base["k"]
        head = {"n": base["n"], "d": base["d"], "m": base["m"], "k": base["k"], "noise": round(noise, 3)}
        ratio = plain["seconds"] / ours["seconds"]
        for name, result in (("hf_gip.gip", ours), ("plain loop", plain)):
            line = {key: value for key, value in result.items() if key != "picks"}
            lines.append(head | {"method": name} | line)
        lines[-2] |= {"times_faster": ratio, "same_rows": shared, "gib_read_per_s": gib_per_second(base, ours)}
    return lines


def gib_per_second(case: Case, result: Case) -> float:
    """GiB per second read from the rows: passes × n × d × 4 bytes, divided by the time."""
    return result["passes"] * case["n"] * case["d"] * 4 / 2**30 / result["seconds"]


def compare_with_peers(base: Case) -> list[Case]:
    """All methods on the first 20,000 rows, k = 2,000."""
    case = base | {"n": min(20_000, base["n"]), "k": min(2_000, base["k"]), "noise": 0.1}
    lines = []
    for name in ("hf_gip.gip", *PEERS):
        result = run_in_subprocess(case | {"method": name})
        line = {key: value for key, value in result.items() if key not in ("picks", "passes")}
        lines.append({"method": name, "n": case["n"], "k": case["k"]} | line)
        if "seconds" in result and "seconds" in lines[0]:
            lines[-1]["seconds_to_ours"] = result["seconds"] / lines[0]["seconds"]
    return lines


def compare_prefilters(base: Case) -> list[Case]:
    """Objective and time of the prefilter approximation, at two ridges."""
    lines = []
    for noise in (0.1, 10 * base["k"] / base["d"]):
        exact: Case = {}
        for shortlist in (None, 20_000, 10_000, 5_000, 2_000):
            method = "hf_gip.gip" if shortlist is None else f"hf_gip.gip prefilter {shortlist}"
            if shortlist is not None and not base["k"] <= shortlist < base["n"]:
                continue
            result = run_in_subprocess(base | {"noise": noise, "method": method})
            exact = exact or result
            line = {"n": base["n"], "k": base["k"], "noise": round(noise, 3), "shortlist": shortlist or base["n"]}
            line |= {"seconds": result["seconds"], "captured": result["captured"]}
            line["of_exact"] = result["captured"] / exact["captured"]
            line["times_faster"] = exact["seconds"] / result["seconds"]
            line["same_rows"] = len(set(result["picks"]) & set(exact["picks"])) / base["k"]
            lines.append(line)
    return lines


def measure_scaling(base: Case) -> list[Case]:
    """One parameter changed at a time. Ranks are processes of one thread, other lines one process of two threads."""
    lines = []
    start = base | {"method": "hf_gip.gip", "n": min(20_000, base["n"]), "k": 1_000, "noise": 0.1}
    changes = [{}, {"n": 5_000}, {"n": 52_002}, {"n": 200_000}, {"d": 128}, {"d": 1_024}, {"k": 100}, {"k": 4_000}]
    for change in [*changes, {"m": 1}, {"m": 512}, {"noise": 0.01}, {"noise": 10.0}, *BLOCKS, *RANKS]:
        case = start | change
        result = run_in_subprocess(case)
        line = {key: case[key] for key in ("n", "d", "k", "m", "noise")}
        line |= {"block": case.get("block", BLOCK), "ranks": case.get("ranks", "")}
        measured = ("seconds", "passes", "extra_mib", "captured", "failed")
        lines.append(line | {key: result[key] for key in measured if key in result})
        if result.get("passes"):
            lines[-1] |= {
                "picks_per_pass": case["k"] / result["passes"],
                "ms_per_pick": 1e3 * result["seconds"] / case["k"],
                "times_bare_products": result["times_bare_products"],
            }
    return lines


def run_case(case: Case) -> None:
    """`run` inside the subprocess. The first rank prints the result."""
    if "ranks" in case:
        dist.init_process_group("gloo")
    answer = run(case)
    if "ranks" not in case or dist.get_rank() == 0:
        print(json.dumps(answer))
    if "ranks" in case:
        dist.destroy_process_group()


def main() -> None:
    """Measure, print, write the result files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=str(HERE.parents[1] / "shared" / "data"))
    parser.add_argument("--only", nargs="+", choices=["plain", "peers", "scaling", "prefilter"])
    for name, value in {"n": 52_002, "k": 5_000, "m": 64}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        run_case(json.loads(arguments.case))
        return
    base = {"data": arguments.data, "n": arguments.n, "d": 384, "m": arguments.m, "k": arguments.k}
    note = (
        "Each line is one process; extra_mib is its peak memory above the loaded rows (0: below that of making them). "
        "captured: one float64 judge. times_bare_products: seconds over those of the passes' bare products of all "
        "rows with 64 columns, here."
    )
    parts = {
        "plain": (compare_with_plain_loop, "speed"),
        "peers": (compare_with_peers, "speed_peers"),
        "scaling": (measure_scaling, "speed_scaling"),
        "prefilter": (compare_prefilters, "speed_prefilter"),
    }
    for part in arguments.only or parts:
        measure, name = parts[part]
        packages = ["torch", "numpy"]
        if part == "peers":
            packages += ["apricot-select", "scikit-learn", "submodlib-py", "pyversity", "semhash"]
        write_results(
            name,
            measure(base),
            command=f"python benchmarks/speed.py --only {part} --n {arguments.n} --k {arguments.k} --m {arguments.m}",
            packages=packages,
            notes=[note],
        )


if __name__ == "__main__":
    main()
