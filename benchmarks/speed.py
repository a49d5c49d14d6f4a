"""The engine beside the plain loop and beside every peer: seconds, memory, and the objective under one judge.

python benchmarks/speed.py [--data ../shared/data] [--only plain peers scaling prefilter] [--n 52002] [--k 5000]
    [--m 64]

Each call runs in a process of its own, so that its peak memory is its own; the judge is float64 and the same for all.
The rows are the ready Alpaca vectors (or made ones where the folder is absent).
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

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))  # the plain loop is the tests' reference

Case = dict[str, Any]
BLOCKS = [{"block": 1}, {"block": 8}, {"block": 32}, {"block": 128}]
RANKS = [{"n": 52_002, "ranks": 1}, {"n": 52_002, "ranks": 2}]


def vectors(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit rows (n, d), real ones where they are at hand; queries (m, d): some of them, blurred."""
    n, d, m = case["n"], case["d"], case["m"]
    path = Path(case["data"]) / "alpaca_minilm_f16.npy"
    generator = torch.Generator().manual_seed(0)
    if path.exists() and d == 384 and n <= 52_002:
        rows = torch.from_numpy(np.load(path, mmap_mode="r")[:n].astype(np.float32))
    else:
        centres = torch.randn(256, d, generator=generator)
        spread = torch.arange(1, d + 1).float().rsqrt()
        rows = (
            centres[torch.randint(256, (n,), generator=generator)] + torch.randn(n, d, generator=generator)
        ) * spread
    rows = torch.nn.functional.normalize(rows, dim=1)
    near = rows[torch.randperm(n, generator=generator)[:m]]
    queries = near + 0.5 * d**-0.5 * torch.randn(near.shape, generator=generator)
    return rows, torch.nn.functional.normalize(queries, dim=1)


def run(case: Case) -> Case:
    """One selection in this process: seconds, processor seconds, extra peak memory, picks."""
    rows, queries = vectors(case)
    name, k, noise = case["method"], case["k"], case["noise"]
    warm_up(name.partition(" prefilter")[0])
    if "block" in case:
        greedy.__kwdefaults__ = (greedy.__kwdefaults__ or {}) | {"block": case["block"]}  # users have no need of it
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    picks, passes = choose(name, rows, queries, k, noise, "ranks" in case)
    seconds, cpu = time.perf_counter() - wall, time.process_time() - cpu
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    share = captured(rows, queries, picks, noise)
    answer = {"seconds": seconds, "cpu_seconds": cpu, "extra_mib": extra, "rows": len(picks), "captured": share}
    if passes and name != "plain loop":
        answer["times_bare_products"] = seconds / (passes * bare(rows))
    return answer | {"passes": passes, "picks": picks}


def bare(rows: torch.Tensor) -> float:
    """Seconds of what no exact verification of 64 drafts can do without: one product of all rows with 64 columns."""
    columns, out = torch.randn(rows.shape[1], 64), torch.empty(2048, 64)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        for first in range(0, len(rows) - 2047, 2048):
            torch.mm(rows[first : first + 2048], columns, out=out)
        times.append(time.perf_counter() - start)
    return min(times)


def choose(
    name: str, rows: torch.Tensor, queries: torch.Tensor, k: int, noise: float, ranks: bool = False
) -> tuple[list[int], int | None]:
    """The picks of one method, and how often it read all rows where it tells."""
    if name in PEERS:
        return PEERS[name](rows.numpy(), queries.numpy(), k), None
    if name == "plain loop":
        from plain_loops import project

        from hf_gip.core.matrix import InMemoryMatrix
        from hf_gip.core.normalize import normalize_problem

        problem = normalize_problem(InMemoryMatrix(rows), queries, None)
        return project(rows, problem.scale, problem.queries, k, noise).indices.tolist(), k
    passes = [0]
    kept = int(name.rpartition(" ")[2]) if "prefilter" in name else None
    group = dist.group.WORLD if ranks else None
    mine = rows.chunk(dist.get_world_size())[dist.get_rank()] if ranks else rows
    tell = lambda done, count: passes.__setitem__(0, count)  # noqa: E731
    found = gip(mine, queries, k, noise=noise, prefilter=kept, group=group, progress=tell)
    return found.indices.tolist(), passes[0]


def warm_up(name: str) -> None:
    """Load and compile what the first call needs."""
    rows = torch.nn.functional.normalize(torch.randn(300, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    choose(name, rows, rows[:8] * 0.5, 20, 0.1)


def apart(case: Case) -> Case:
    """`run` in a process of its own."""
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


def against_plain(base: Case) -> list[Case]:
    """The engine and the plain one-pick loop on the same problem, at two ridges."""
    lines = []
    for noise in (0.1, 10 * base["k"] / base["d"]):
        case = base | {"noise": noise}
        ours, plain = apart(case | {"method": "hf_gip.gip"}), apart(case | {"method": "plain loop"})
        shared = len(set(ours["picks"]) & set(plain["picks"])) / base["k"]
        head = {"n": base["n"], "d": base["d"], "m": base["m"], "k": base["k"], "noise": round(noise, 3)}
        ratio = plain["seconds"] / ours["seconds"]
        for name, found in (("hf_gip.gip", ours), ("plain loop", plain)):
            line = {key: value for key, value in found.items() if key != "picks"}
            lines.append(head | {"method": name} | line)
        lines[-2] |= {"times_faster": ratio, "same_rows": shared, "gib_read_per_s": traffic(base, ours)}
    return lines


def traffic(case: Case, found: Case) -> float:
    """GiB a second of the rows alone: passes × n × d × 4 bytes over the time."""
    return found["passes"] * case["n"] * case["d"] * 4 / 2**30 / found["seconds"]


def against_peers(base: Case) -> list[Case]:
    """All on the first 20,000 rows, k = 2,000."""
    case = base | {"n": min(20_000, base["n"]), "k": min(2_000, base["k"]), "noise": 0.1}
    lines = []
    for name in ("hf_gip.gip", *PEERS):
        found = apart(case | {"method": name})
        line = {key: value for key, value in found.items() if key not in ("picks", "passes")}
        lines.append({"method": name, "n": case["n"], "k": case["k"]} | line)
        if "seconds" in found and "seconds" in lines[0]:
            lines[-1]["seconds_to_ours"] = found["seconds"] / lines[0]["seconds"]
    return lines


def prefiltered(base: Case) -> list[Case]:
    """What the approximation loses on these rows, and what it saves, at two ridges."""
    lines = []
    for noise in (0.1, 10 * base["k"] / base["d"]):
        exact: Case = {}
        for kept in (None, 20_000, 10_000, 5_000, 2_000):
            method = "hf_gip.gip" if kept is None else f"hf_gip.gip prefilter {kept}"
            if kept is not None and not base["k"] <= kept < base["n"]:
                continue
            found = apart(base | {"noise": noise, "method": method})
            exact = exact or found
            line = {"n": base["n"], "k": base["k"], "noise": round(noise, 3), "kept": kept or base["n"]}
            line |= {"seconds": found["seconds"], "captured": found["captured"]}
            line["of_exact"] = found["captured"] / exact["captured"]
            line["times_faster"] = exact["seconds"] / found["seconds"]
            line["same_rows"] = len(set(found["picks"]) & set(exact["picks"])) / base["k"]
            lines.append(line)
    return lines


def scaling(base: Case) -> list[Case]:
    """One thing changed at a time; ranks are processes of one thread each, the other lines one process of two."""
    lines = []
    start = base | {"method": "hf_gip.gip", "n": min(20_000, base["n"]), "k": 1_000, "noise": 0.1}
    changes = [{}, {"n": 5_000}, {"n": 52_002}, {"n": 200_000}, {"d": 128}, {"d": 1_024}, {"k": 100}, {"k": 4_000}]
    for change in [*changes, {"m": 1}, {"m": 512}, {"noise": 0.01}, {"noise": 10.0}, *BLOCKS, *RANKS]:
        case = start | change
        found = apart(case)
        shown = {key: case[key] for key in ("n", "d", "k", "m", "noise")}
        shown |= {"block": case.get("block", BLOCK), "ranks": case.get("ranks", "")}
        kept = ("seconds", "passes", "extra_mib", "captured", "failed")
        lines.append(shown | {key: found[key] for key in kept if key in found})
        if found.get("passes"):
            lines[-1] |= {
                "picks_per_pass": case["k"] / found["passes"],
                "ms_per_pick": 1e3 * found["seconds"] / case["k"],
                "times_bare_products": found["times_bare_products"],
            }
    return lines


def in_own_process(case: Case) -> None:
    """`run` where `apart` started it; of several ranks the first tells."""
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
    given = parser.parse_args()
    if given.case:
        in_own_process(json.loads(given.case))
        return
    base = {"data": given.data, "n": given.n, "d": 384, "m": given.m, "k": given.k}
    note = (
        "Each line is one process; extra_mib is its peak memory above the loaded rows (0: below that of making them). "
        "captured: one float64 judge. times_bare_products: seconds over those of the passes' bare products of all "
        "rows with 64 columns, here."
    )
    parts = {
        "plain": (against_plain, "speed"),
        "peers": (against_peers, "speed_peers"),
        "scaling": (scaling, "speed_scaling"),
        "prefilter": (prefiltered, "speed_prefilter"),
    }
    for part in given.only or parts:
        measure, name = parts[part]
        packages = ["torch", "numpy"]
        if part == "peers":
            packages += ["apricot-select", "scikit-learn", "submodlib-py", "pyversity", "semhash"]
        write_results(
            name,
            measure(base),
            command=f"python benchmarks/speed.py --only {part} --n {given.n} --k {given.k} --m {given.m}",
            packages=packages,
            notes=[note],
        )


if __name__ == "__main__":
    main()
