"""`hf_gip.compare` on all of Alpaca: three selections of 1,000 rows, random subsets and every baseline.

    python benchmarks/compare.py            # needs `pip install 'hf-gip[demo,bench]'`

The pool is 52,002 Alpaca rows with MiniLM vectors and three judges; the target is 100 test rows of GSM8K. Random
subsets have ten seeds. Their measures have the 95 % interval of the mean.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np
from datasets import Dataset
from machine import write_results

import hf_gip
from hf_gip.features.sentence_transformer import DEFAULT_ENCODER

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
JUDGES = ["score_gpt4o_mini", "score_llama31_8b", "score_mistral_7b"]
K, SEEDS, TARGET = 1_000, 10, 100


def main() -> None:
    """Measure and write `results/compare.{json,md}`."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    pool = Dataset.from_parquet(str(DATA / "alpaca.parquet"))
    target = Dataset.from_parquet(str(DATA / "gsm8k_test.parquet"))
    assert isinstance(pool, Dataset)
    assert isinstance(target, Dataset)
    vectors = np.load(DATA / "alpaca_minilm_f16.npy").astype(np.float32)
    target_vectors = hf_gip.embed(target.select(range(TARGET)), DEFAULT_ENCODER, columns=["question"]).matrix
    subsets = {
        "gip": hf_gip.gip_select(pool, K, features=vectors),
        "gip with three judges": hf_gip.gip_select(pool, K, features=vectors, scores=JUDGES),
        "gip towards GSM8K": hf_gip.gip_select(pool, K, features=vectors, target=target_vectors),
    }
    began = time.perf_counter()
    options = {"features": vectors, "target": target_vectors, "scores": JUDGES, "seeds": SEEDS, "baselines": True}
    comparison = hf_gip.compare(subsets, pool, **options)
    seconds = time.perf_counter() - began
    print(comparison)
    draws = next(iter(comparison.random.values()))
    rows = [
        {"subset": f"random, {SEEDS} seeds", **{name: f"{m:.4g} ± {half:.2g}" for name, (m, half) in draws.items()}}
    ]
    for name, figures in comparison.figures.items():
        cells = {measure: f"{value:.4g}" for measure, value in figures.items() if measure != "rows"}
        rows.append({"subset": name.removesuffix(f", {K:,} rows"), **cells})
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
