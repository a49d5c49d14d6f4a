"""Compare two runs of `quality.py`: the results here and those of another revision of the repository.

Usage: `python benchmarks/compare_runs.py REVISION`. Two differences to random agree if their distance is at most the
sum of their two intervals.
"""

import argparse
import json
import subprocess
from typing import Any

from machine import RESULTS, write_results

TABLES = ("probe", "sensitivity", "sft", "selection")
KEYS = ("pool", "budget", "topic", "label", "k", "measure", "method")


def differences(rows: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The rows with a difference and its interval, by their keys."""
    return {tuple(map(row.get, KEYS)): row for row in rows if row.get("difference_half_width")}


def main() -> None:
    """Compare every table and write how many cells agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision", help="git revision of the other results")
    revision, lines = parser.parse_args().revision, []
    for table in TABLES:
        path = RESULTS / f"quality_{table}.json"
        old_text = subprocess.check_output(["git", "show", f"{revision}:./{path.name}"], cwd=RESULTS)
        before, now = (differences(json.loads(text)["rows"]) for text in (old_text, path.read_text()))
        common = before.keys() & now.keys()
        apart = [
            key
            for key in common
            if abs(before[key]["difference"] - now[key]["difference"])
            > before[key]["difference_half_width"] + now[key]["difference_half_width"]
        ]
        methods = ", ".join(sorted({key[-1] for key in apart})) or "none"
        lines.append({"table": table, "differences in both": len(common), "apart": len(apart), "methods": methods})
    write_results("quality_agreement", lines, command=f"python benchmarks/compare_runs.py {revision}")


if __name__ == "__main__":
    main()
