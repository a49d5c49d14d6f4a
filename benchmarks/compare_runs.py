"""Do two runs of `quality.py` agree? The results here beside those of another revision of the repository.

Run `python benchmarks/compare_runs.py REVISION`. Compared are differences to random; two agree where they are no
farther apart than their two intervals together.
"""

import json
import subprocess
import sys
from typing import Any

from machine import RESULTS, write_results

TABLES = ("probe", "sensitivity", "sft", "selection")
KEYS = ("pool", "budget", "topic", "label", "k", "measure", "method")


def compared(rows: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The rows that hold a difference with its interval, by what they are about."""
    return {tuple(map(row.get, KEYS)): row for row in rows if row.get("difference_half_width")}


def main() -> None:
    """Compare every table and write how many cells agree."""
    [revision], lines = sys.argv[1:], []
    for table in TABLES:
        path = RESULTS / f"quality_{table}.json"
        shown = subprocess.check_output(["git", "show", f"{revision}:./{path.name}"], cwd=RESULTS)
        before, now = (compared(json.loads(text)["rows"]) for text in (shown, path.read_text()))
        both = before.keys() & now.keys()
        apart = [
            key
            for key in both
            if abs(before[key]["difference"] - now[key]["difference"])
            > before[key]["difference_half_width"] + now[key]["difference_half_width"]
        ]
        methods = ", ".join(sorted({key[-1] for key in apart})) or "none"
        lines.append({"table": table, "differences in both": len(both), "apart": len(apart), "methods": methods})
    write_results("quality_agreement", lines, command=f"python benchmarks/compare_runs.py {revision}")


if __name__ == "__main__":
    main()
