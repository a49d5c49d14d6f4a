"""Every measurement is a small job. Finished jobs are stored, so a killed run resumes where it stopped."""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from .data import cache_folder

VERSION = 2  # raise it when the same job gives other figures

Job = dict[str, Any]


class JobStore:
    """Finished jobs of one part, one JSON line each."""

    def __init__(self, part: str) -> None:
        """Read the finished jobs. A line truncated by a kill is ignored."""
        self.path = cache_folder() / f"{part}-{VERSION}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.finished: dict[str, Job] = {}
        for line in self.path.read_text().splitlines() if self.path.exists() else []:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            self.finished[job_key(entry["job"])] = entry

    def get(self, job: Job, work: Callable[[Job], Job]) -> Job:
        """The values of a job, computed if missing. Each result is a single write, so workers can share the file."""
        key = job_key(job)
        if key not in self.finished:
            started, used = time.perf_counter(), time.process_time()
            entry: Job = {"job": job, "values": work(job)}
            entry["seconds"] = round(time.perf_counter() - started, 3)
            entry["cpu"] = round(time.process_time() - used, 3)
            with Path(self.path).open("ab", buffering=0) as file:
                file.write(("\n" + json.dumps(entry)).encode())
            self.finished[key] = entry
        return self.finished[key]["values"]

    def cost(self) -> float:
        """Mean processor seconds of a finished job, 0 if none was timed."""
        timed = [entry["cpu"] for entry in self.finished.values() if "cpu" in entry]
        return sum(timed) / len(timed) if timed else 0.0


def job_key(job: Job) -> str:
    """A string that identifies a job."""
    return json.dumps(job, sort_keys=True)


def run_jobs(
    part: str, jobs: Iterable[Job], work: Callable[[Job], Job], deadline: float, workers: int = 1
) -> list[Job]:
    """Run jobs until the deadline and return all finished ones with their values. Stored jobs cost nothing.

    Args:
        part: Name of the file that stores them.
        jobs: What to measure, most important first.
        work: Runs one job.
        deadline: No job starts after this time of `time.monotonic`.
        workers: Number of processes.
    """
    store, all_jobs = JobStore(part), list(jobs)
    pending = [job for job in all_jobs if job_key(job) not in store.finished]
    if pending and time.monotonic() < deadline:
        minutes = len(pending) * store.cost() / workers / 60
        print(f"{part}: {len(all_jobs) - len(pending)} of {len(all_jobs)} jobs stored", flush=True)
        print(f"{part}: about {minutes:.0f} minutes for the rest" if minutes else f"{part}: not timed yet", flush=True)
        started = time.monotonic()
        run_in_parallel(store, pending, work, deadline, workers)
        store, minutes = JobStore(part), (time.monotonic() - started) / 60
        unfinished = sum(job_key(job) not in store.finished for job in pending)
        print(
            f"{part}: {len(pending) - unfinished} jobs in {minutes:.1f} minutes, {unfinished} left for the next run",
            flush=True,
        )
    return [job | store.finished[job_key(job)]["values"] for job in all_jobs if job_key(job) in store.finished]


def run_in_parallel(
    store: JobStore, pending: Sequence[Job], work: Callable[[Job], Job], deadline: float, workers: int
) -> None:
    """Run in this process, or in forked workers that end when this process ends."""
    alone = len(pending) if workers == 1 else 1  # what all need is loaded before the fork
    run_in_order(store, pending[:alone], work, deadline)
    fork = multiprocessing.get_context("fork")
    forks = [
        fork.Process(
            target=run_in_order,
            args=(store, pending[alone + turn :: workers], work, deadline, os.getpid()),
            daemon=True,
        )
        for turn in range(min(workers, len(pending) - alone))
    ]
    for process in forks:
        process.start()
    for process in forks:
        process.join()
    if any(process.exitcode for process in forks):
        raise RuntimeError(
            "A worker failed, see the error above. Finished jobs are stored: run the command again to resume."
        )


def run_in_order(
    store: JobStore, jobs: Sequence[Job], work: Callable[[Job], Job], deadline: float, parent: int | None = None
) -> None:
    """Run jobs in order until the deadline, or until the parent process ends."""
    for number, job in enumerate(jobs):
        if time.monotonic() > deadline or parent not in (None, os.getppid()):
            return
        if number % 20 == 0:
            print(f"{store.path.stem}: {job}", flush=True)
        store.get(job, work)
