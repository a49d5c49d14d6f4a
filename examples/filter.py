"""Filter a dataset without a GPU: `python examples/filter.py alpaca.parquet` (or another file or Hub id)."""

import sys

import hf_gip
from hf_gip import open_dataset

SOURCE = sys.argv[1] if len(sys.argv) > 1 else "tatsu-lab/alpaca"
JUDGES = ["score_gpt4o_mini", "score_llama31_8b", "score_mistral_7b"]

pool = open_dataset(SOURCE)
pool = pool.select(range(min(5_000, len(pool))))
judges = [name for name in JUDGES if name in pool.column_names]

# "lexical" needs no weights; leave `encoder` out for sentence embeddings
subset = hf_gip.gip_select(pool, 200, scores=judges or None, encoder="lexical")
print(subset[0])

selection = subset.selection  # pyright: ignore[reportAttributeAccessIssue] — set on the returned dataset
print(f"{selection.captured:.0%} captured; returns flatten after {selection.flattens_at()} picks")
print(selection.explain(int(selection.indices[5])))

# Is it any better than random rows? Five draws of the same size, with intervals
print(hf_gip.compare({"chosen": subset}, pool, scores=judges or None, encoder="lexical"))
