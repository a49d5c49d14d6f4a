"""What every result file says about where it was measured, and how result files are written."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Cores, memory, processor and accelerator of this machine, without its name."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }


def processor() -> str:
    """The processor's model name where the system tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def write_results(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    command: str,
    packages: Sequence[str] = ("torch",),
    notes: Sequence[str] = (),
    body: str | None = None,
) -> None:
    """Write `results/NAME.json` and the same as a Markdown table, `NAME.md`; `body` takes the table's place."""
    RESULTS.mkdir(exist_ok=True)
    content = {
        "command": command,
        "machine": machine(),
        "versions": {package: version(package) for package in ("hf-gip", *packages)},
        "notes": list(notes),
        "rows": [dict(row) for row in rows],
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [
        f"# {name}",
        "",
        f"`{command}`",
        "",
        ", ".join(f"{key} {value}" for key, value in content["machine"].items()),
        "",
        ", ".join(f"{key} {value}" for key, value in content["versions"].items()),
        "",
        *(table(rows, columns) if body is None else [body]),
        *(f"\n{note}" for note in notes),
    ]
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n")


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """The lines of a Markdown table."""
    return [
        "| " + " | ".join(columns) + " |",
        "|" + " --- |" * len(columns),
        *("| " + " | ".join(cell(row.get(column)) for column in columns) + " |" for row in rows),
    ]


def cell(value: Any) -> str:
    """A table cell: four digits of a float, nothing for nothing."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
