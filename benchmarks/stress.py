"""Stress test: select, save, publish, verify and load again for a given time, with faults injected at random.

Every loop draws a pool, options and a fault: a writer killed (kill -9) in the middle of saving, a byte of the saved
folder changed, a cache file cut off, or a Hub on this machine that answers 429, 500 or 503, drops connections and
stalls. Nothing may be lost or look whole when it is not, and neither memory nor open files may grow.
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


def pool(draw: random.Random) -> Dataset:
    """Some hundred rows of text with a score each."""
    n = draw.randrange(200, 900)
    return Dataset.from_dict(
        {
            "text": [" ".join(draw.choices(WORDS, k=draw.randrange(3, 30))) for _ in range(n)],
            "good": [float(draw.randrange(6)) for _ in range(n)],
        }
    )


def chosen(rows: Dataset, draw: random.Random) -> Dataset:
    """A subset by options drawn at random."""
    options: dict[str, Any] = {}
    if draw.random() < 0.5:
        options["scores"] = ["good"]
    if draw.random() < 0.5:
        options["target"] = draw.sample(rows["text"][:], 5)
    options["objective"] = draw.choice(["projection", "information"])
    return hf_gip.gip_select(rows, draw.randrange(5, 100), encoder="lexical", **options)


def saved(subset: Dataset, rows: Dataset, work: Path, draw: random.Random) -> str:
    """Save, verify against the pool, load: equal rows, and the saved folder is whole."""
    hf_gip.save_subset(subset, work / "out", include_rows=draw.random() < 0.8)
    report = hf_gip.verify(work / "out", source=rows)
    assert report.ok, str(report)
    return "saved and verified"


def killed(subset: Dataset, rows: Dataset, work: Path, draw: random.Random) -> str:
    """A process that saves is killed: the folder is absent, or whole."""
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


def changed(subset: Dataset, rows: Dataset, work: Path, draw: random.Random) -> str:
    """One byte of a saved folder is changed: verification names it."""
    hf_gip.save_subset(subset, work / "out")
    path = draw.choice(sorted(p for p in (work / "out").rglob("*") if p.is_file() and p.name != "README.md"))
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    assert not hf_gip.verify(work / "out", source=rows).ok, path
    return "changed byte found"


def cut_off(subset: Dataset, rows: Dataset, work: Path, draw: random.Random) -> str:
    """A file of the cache is cut off: the selection is made again, the same."""
    files = [p for p in (work / "cache").rglob("*") if p.is_file() and p.suffix in (".npy", ".json", ".safetensors")]
    path = draw.choice(sorted(files))
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])
    made = subset.selection.record  # pyright: ignore[reportAttributeAccessIssue] — set by gip_select
    again = hf_gip.gip_select(
        rows,
        len(subset),
        encoder="lexical",
        objective=made["parameters"]["objective"],
        scores=made["scores"] and made["scores"]["columns"],
        target=made["queries"].get("texts"),
    )
    assert again["text"][:] == subset["text"][:]
    return "cut-off cache made again"


def published(subset: Dataset, rows: Dataset, work: Path, draw: random.Random) -> str:
    """Publish through faults, load back: the same rows, one commit, or a clear refusal and no commit."""
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
    """Loop, then write `results/stress.*`; ends with an error at the first thing lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    draw, outcomes, watched = random.Random(given.seed), Counter[str](), []
    acts = [saved, killed, changed, cut_off] + ([published] * 2 if hasattr(hf_gip, "push_to_hub") else [])
    end = time.monotonic() + 60 * given.minutes
    while time.monotonic() < end:
        work = Path(tempfile.mkdtemp(dir=HOME))
        config.HF_DATASETS_CACHE = work / "cache"
        rows = pool(draw)
        outcomes[draw.choice(acts)(chosen(rows, draw), rows, work, draw)] += 1
        shutil.rmtree(work)
        watched.append(usage())
    report(given, outcomes, watched)
    shutil.rmtree(HOME, ignore_errors=True)
    HUB.stop()


def report(given: argparse.Namespace, outcomes: Counter[str], watched: list[tuple[float, int]]) -> None:
    """Print and write what happened; memory and files of the second tenth against the last."""
    tenth = max(1, len(watched) // 10)
    early, late = watched[tenth : 2 * tenth] or watched, watched[-tenth:]
    memory = [statistics.median(size for size, _ in part) for part in (early, late)]
    files = [statistics.median(count for _, count in part) for part in (early, late)]
    rows: list[dict[str, Any]] = [{"outcome": name, "times": times} for name, times in sorted(outcomes.items())]
    notes = [
        f"{len(watched):,} loops in {given.minutes:g} min, nothing lost.",
        f"Resident memory {memory[0]:.0f} MiB in the second tenth of the loops, {memory[1]:.0f} MiB in the last; open "
        f"files {files[0]:g} and {files[1]:g}.",
    ]
    command = f"python benchmarks/stress.py --minutes {given.minutes:g} --seed {given.seed}"
    write_results("stress", rows, command=command, packages=["datasets", "huggingface-hub", "torch"], notes=notes)
    print("\n".join([*notes, *(f"{row['times']:6} {row['outcome']}" for row in rows)]))


if __name__ == "__main__":
    main()
