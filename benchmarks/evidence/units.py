"""Every measurement is a small unit with a name; finished ones are kept, so that a killed run goes on where it was."""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .bank import cache_folder

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
        """The unit's values, computed now unless they are there."""
        key = name(unit)
        if key not in self.found:
            started = time.perf_counter()
            values = work(unit)
            entry = {"unit": unit, "values": values, "seconds": round(time.perf_counter() - started, 3)}
            with Path(self.path).open("a") as file:
                file.write("\n" + json.dumps(entry))
            self.found[key] = entry
        return self.found[key]["values"]


def name(unit: Unit) -> str:
    """One string per unit."""
    return json.dumps(unit, sort_keys=True)


def run(part: str, units: Iterable[Unit], work: Callable[[Unit], Unit], deadline: float) -> list[Unit]:
    """All units that are finished by the deadline, with their values; those kept before cost nothing."""
    kept, rows, late = Kept(part), [], 0
    for number, unit in enumerate(units):
        if name(unit) not in kept.found:
            if time.monotonic() > deadline:
                late += 1
                continue
            if number % 20 == 0:
                print(f"{part}: {unit}", flush=True)
        rows.append(unit | kept.get(unit, work))
    if late:
        print(f"{part}: {late} units left for the next run", flush=True)
    return rows
