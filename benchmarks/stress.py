"""Stress test: select, save, publish, verify and load again for a given time, with faults injected at random.

Every loop draws a pool, options and a fault: a writer killed (kill -9) while it saves, a changed byte in the saved
folder, a truncated cache file, or a local Hub that answers 429, 500 or 503, drops connections and stalls. No data may
be lost, no damaged data may pass as intact, and neither memory nor open files may grow.
"""

import argparse
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from hub_server import ALICE, Hub  # noqa: E402  # pyright: ignore[reportMissingImports] — before datasets and huggingface_hub, which read the address at import

HUB = Hub().start()
HOME = Path(tempfile.mkdtemp(prefix="hf-gip-stress-"))
os.environ |= {
    "HF_ENDPOINT": HUB.url,
    "HF_HOME": str(HOME),
    "HF_TOKEN": "",
    "NO_PROXY": "127.0.0.1,localhost",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}

import torch  # noqa: E402
from datasets import Dataset, config  # noqa: E402
from machine import write_results  # noqa: E402

import hf_gip  # noqa: E402

WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "loop",
    "await",
    "list",
    "dict",
    "tree",
    "moon",
    "river",
    "stone",
    "sort",
    "graph",
    "lock",
    "queue",
]


def random_pool(draw: random.Random) -> Dataset:
    """A few hundred rows of text, each with a score."""
    n = draw.randrange(200, 900)
    return Dataset.from_dict(
        {
            "text": [" ".join(draw.choices(WORDS, k=draw.randrange(3, 30))) for _ in range(n)],
            "good": [float(draw.randrange(6)) for _ in range(n)],
        }
    )


def random_subset(rows: Dataset, draw: random.Random) -> Dataset:
    """A subset selected with random options."""
    options: dict[str, Any] = {}
    if draw.random() < 0.5:
        options["scores"] = ["good"]
    if draw.random() < 0.5:
        options["target"] = draw.sample(rows["text"][:], 5)
    options["objective"] = draw.choice(["projection", "information"])
    return hf_gip.gip_select(rows, draw.randrange(5, 100), encoder="lexical", **options)


def save_and_verify(subset: Dataset, rows: Dataset, work: Path, draw: random.Random) -> str:
    """Save, and verify against the pool."""
    hf_gip.save_subset(subset, work / "out", include_rows=draw.random() < 0.8)
    report = hf_gip.verify(work / "out", source=rows)
    assert report.ok, str(report)
    return "saved and verified"


def kill_while_saving(subset: Dataset, rows: Dataset, work: Path, draw: random.Random) -> str:
    """Kill a process while it saves: the folder must be absent or complete."""
    child = os.fork() if hasattr(os, "fork") else 0
    if child == 0:
        hf_gip.save_subset(subset, work / "out")
        os._exit(0)
    time.sleep(draw.uniform(0, 0.4))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if not (work / "out").exists():
        return "killed: nothing there"
    assert hf_gip.verify(work / "out", source=rows).ok
    return "killed: whole"


def flip_byte(subset: Dataset, rows: Dataset, work: Path, draw: random.Random) -> str:
    """Change one byte of a saved folder: verification must fail."""
    hf_gip.save_subset(subset, work / "out")
    path = draw.choice(sorted(p for p in (work / "out").rglob("*") if p.is_file() and p.name != "README.md"))
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    assert not hf_gip.verify(work / "out", source=rows).ok, path
    return "changed byte found"


def truncate_cache_file(subset: Dataset, rows: Dataset, work: Path, draw: random.Random) -> str:
    """Truncate a cache file: selecting again must give the same rows."""
    files = [p for p in (work / "cache").rglob("*") if p.is_file() and p.suffix in (".npy", ".json", ".safetensors")]
    path = draw.choice(sorted(files))
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])
    record = subset.selection.record  # pyright: ignore[reportAttributeAccessIssue] — set by gip_select
    repeated = hf_gip.gip_select(
        rows,
        len(subset),
        encoder="lexical",
        objective=record["parameters"]["objective"],
        scores=record["scores"] and record["scores"]["columns"],
        target=record["queries"].get("texts"),
    )
    assert repeated["text"][:] == subset["text"][:]
    return "cut-off cache made again"


def publish_with_faults(subset: Dataset, rows: Dataset, work: Path, draw: random.Random) -> str:
    """Publish through faults: either an error, or a commit that loads as the same rows."""
    repo = f"alice/stress-{draw.randrange(3)}"
    for _ in range(draw.randrange(4)):
        kind = draw.choice(["status", "cut", "slow", "after"])
        match = draw.choice(["", "commit", "preupload", "lfs"])
        if kind == "cut":
            HUB.cut(match, after_bytes=draw.randrange(2000))
        elif kind == "slow":
            HUB.slow(match, draw.uniform(0, 0.5))
        else:
            HUB.fail(draw.choice([429, 500, 503]), match, after=kind == "after")
    head = HUB.head(repo) if repo in HUB.repos else None
    outcome = "published"
    try:
        hf_gip.push_to_hub(subset, repo, token=ALICE)
    except OSError:
        outcome = "publishing refused in words"
    HUB.calm()
    if repo in HUB.repos and HUB.head(repo) != head and outcome == "published":
        loaded = hf_gip.load_subset(repo, token=ALICE)
        assert loaded["text"][:] == subset["text"][:]
    return outcome


def usage() -> tuple[float, int]:
    """Resident memory in MiB and open files of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(list(Path("/proc/self/fd").iterdir()))


def main() -> None:
    """Run random scenarios, then write `results/stress.*`. The first failure ends the run with an error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    draw, outcomes, usage_log = random.Random(arguments.seed), Counter[str](), []
    scenarios = [save_and_verify, kill_while_saving, flip_byte, truncate_cache_file] + (
        [publish_with_faults] * 2 if hasattr(hf_gip, "push_to_hub") else []
    )
    end = time.monotonic() + 60 * arguments.minutes
    while time.monotonic() < end:
        work = Path(tempfile.mkdtemp(dir=HOME))
        config.HF_DATASETS_CACHE = work / "cache"
        rows = random_pool(draw)
        outcomes[draw.choice(scenarios)(random_subset(rows, draw), rows, work, draw)] += 1
        shutil.rmtree(work)
        usage_log.append(usage())
    write_report(arguments, outcomes, usage_log)
    shutil.rmtree(HOME, ignore_errors=True)
    HUB.stop()


def write_report(arguments: argparse.Namespace, outcomes: Counter[str], usage_log: list[tuple[float, int]]) -> None:
    """Print and write the outcomes, with memory and open files in the second and in the last tenth."""
    tenth = max(1, len(usage_log) // 10)
    early, late = usage_log[tenth : 2 * tenth] or usage_log, usage_log[-tenth:]
    memory = [statistics.median(size for size, _ in part) for part in (early, late)]
    files = [statistics.median(count for _, count in part) for part in (early, late)]
    rows: list[dict[str, Any]] = [{"outcome": name, "times": times} for name, times in sorted(outcomes.items())]
    notes = [
        f"{len(usage_log):,} loops in {arguments.minutes:g} min, nothing lost.",
        f"Resident memory {memory[0]:.0f} MiB in the second tenth of the loops, {memory[1]:.0f} MiB in the last; open "
        f"files {files[0]:g} and {files[1]:g}.",
    ]
    command = f"python benchmarks/stress.py --minutes {arguments.minutes:g} --seed {arguments.seed}"
    write_results("stress", rows, command=command, packages=["datasets", "huggingface-hub", "torch"], notes=notes)
    print("\n".join([*notes, *(f"{row['times']:6} {row['outcome']}" for row in rows)]))


if __name__ == "__main__":
    main()
