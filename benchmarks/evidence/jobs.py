"""Every measurement is a small unit with a name; finished ones are kept, so that a killed run goes on where it was."""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from .data import cache_folder

VERSION = 1  # raise it when the same unit would give other figures

Unit = dict[str, Any]


class Kept:
    """Finished units of one part, one JSON line each."""

    def __init__(self, part: str) -> None:
        """Read what is there; a line cut short by a kill is left out."""
        self.path = cache_folder() / f"{part}-{VERSION}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.found: dict[str, Unit] = {}
        for line in self.path.read_text().splitlines() if self.path.exists() else []:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            self.found[name(entry["unit"])] = entry

    def get(self, unit: Unit, work: Callable[[Unit], Unit]) -> Unit:
        """The unit's values, computed now unless they are there; one write, so that workers share the file."""
        key = name(unit)
        if key not in self.found:
            started, used = time.perf_counter(), time.process_time()
            entry: Unit = {"unit": unit, "values": work(unit)}
            entry["seconds"] = round(time.perf_counter() - started, 3)
            entry["cpu"] = round(time.process_time() - used, 3)
            with Path(self.path).open("ab", buffering=0) as file:
                file.write(("\n" + json.dumps(entry)).encode())
            self.found[key] = entry
        return self.found[key]["values"]

    def cost(self) -> float:
        """Mean processor seconds of a finished unit; 0 where none was timed."""
        timed = [entry["cpu"] for entry in self.found.values() if "cpu" in entry]
        return sum(timed) / len(timed) if timed else 0.0


def name(unit: Unit) -> str:
    """One string per unit."""
    return json.dumps(unit, sort_keys=True)


def run(
    part: str, units: Iterable[Unit], work: Callable[[Unit], Unit], deadline: float, workers: int = 1
) -> list[Unit]:
    """All units that are finished by the deadline, with their values; those kept before cost nothing.

    Args:
        part: The name of the file they are kept in.
        units: What to measure, what matters most first.
        work: Measures one.
        deadline: No unit begins after this time of `time.monotonic`.
        workers: Processes that share the units.
    """
    kept, every = Kept(part), list(units)
    pending = [unit for unit in every if name(unit) not in kept.found]
    if pending and time.monotonic() < deadline:
        minutes = len(pending) * kept.cost() / workers / 60
        print(f"{part}: {len(every) - len(pending)} of {len(every)} units kept", flush=True)
        print(
            f"{part}: about {minutes:.0f} minutes for the others" if minutes else f"{part}: not timed yet", flush=True
        )
        started = time.monotonic()
        shared(kept, pending, work, deadline, workers)
        kept, minutes = Kept(part), (time.monotonic() - started) / 60
        late = sum(name(unit) not in kept.found for unit in pending)
        print(
            f"{part}: {len(pending) - late} units in {minutes:.1f} minutes, {late} left for the next run", flush=True
        )
    return [unit | kept.found[name(unit)]["values"] for unit in every if name(unit) in kept.found]


def shared(kept: Kept, pending: Sequence[Unit], work: Callable[[Unit], Unit], deadline: float, workers: int) -> None:
    """Measure in this process, or in forks of it that take turns; forks end when this process is gone."""
    alone = len(pending) if workers == 1 else 1  # what all need is loaded before the fork
    several(kept, pending[:alone], work, deadline)
    fork = multiprocessing.get_context("fork")
    forks = [
        fork.Process(
            target=several, args=(kept, pending[alone + turn :: workers], work, deadline, os.getpid()), daemon=True
        )
        for turn in range(min(workers, len(pending) - alone))
    ]
    for process in forks:
        process.start()
    for process in forks:
        process.join()
    if any(process.exitcode for process in forks):
        raise RuntimeError("A worker failed, see above: finished units are kept, run the command again.")


def several(
    kept: Kept, units: Sequence[Unit], work: Callable[[Unit], Unit], deadline: float, parent: int | None = None
) -> None:
    """One after the other until the deadline, or until the parent of a fork is gone."""
    for number, unit in enumerate(units):
        if time.monotonic() > deadline or parent not in (None, os.getppid()):
            return
        if number % 20 == 0:
            print(f"{kept.path.stem}: {unit}", flush=True)
        kept.get(unit, work)
