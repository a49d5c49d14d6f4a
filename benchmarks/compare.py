"""`hf_gip.compare` over all of Alpaca: three selections of 1,000 rows beside random ones and every baseline.

    python benchmarks/compare.py            # needs `pip install 'hf-gip[demo,bench]'`

The pool is 52,002 Alpaca rows with MiniLM vectors and three judges; the target is 100 test rows of GSM8K. Random rows
have ten seeds; each measure stands with the 95 % interval of their mean.
"""

import resource
import time
from pathlib import Path

import numpy as np
from datasets import Dataset
from machine import write_results

import hf_gip
from hf_gip.features.encoders import DEFAULT_ENCODER

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
JUDGES = ["score_gpt4o_mini", "score_llama31_8b", "score_mistral_7b"]
K, SEEDS, TARGET = 1_000, 10, 100


def main() -> None:
    """Measure and write `results/compare.{json,md}`."""
    pool = Dataset.from_parquet(str(DATA / "alpaca.parquet"))
    goal = Dataset.from_parquet(str(DATA / "gsm8k_test.parquet"))
    assert isinstance(pool, Dataset)
    assert isinstance(goal, Dataset)
    vectors = np.load(DATA / "alpaca_minilm_f16.npy").astype(np.float32)
    asked = hf_gip.embed(goal.select(range(TARGET)), DEFAULT_ENCODER, columns=["question"]).matrix
    subsets = {
        "gip": hf_gip.gip_select(pool, K, features=vectors),
        "gip with three judges": hf_gip.gip_select(pool, K, features=vectors, scores=JUDGES),
        "gip towards GSM8K": hf_gip.gip_select(pool, K, features=vectors, target=asked),
    }
    began = time.perf_counter()
    told = {"features": vectors, "target": asked, "scores": JUDGES, "seeds": SEEDS, "baselines": True}
    found = hf_gip.compare(subsets, pool, **told)
    seconds = time.perf_counter() - began
    print(found)
    draws = next(iter(found.random.values()))
    rows = [
        {"subset": f"random, {SEEDS} seeds", **{name: f"{m:.4g} ± {half:.2g}" for name, (m, half) in draws.items()}}
    ]
    for name, figures in found.figures.items():
        shown = {measure: f"{value:.4g}" for measure, value in figures.items() if measure != "rows"}
        rows.append({"subset": name.removesuffix(f", {K:,} rows"), **shown})
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    notes = [
        f"k = {K:,} of {len(pool):,} rows; `captured` and `target cosine` are those of {TARGET} GSM8K questions.",
        f"The comparison with its baselines took {seconds:.0f} s here; the process peaked at {memory:.1f} GiB.",
    ]
    write_results(
        "compare", rows, command="python benchmarks/compare.py", packages=("torch", "apricot-select"), notes=notes
    )


if __name__ == "__main__":
    main()
