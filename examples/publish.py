"""Curate a subset that others can check: `python examples/publish.py alpaca.parquet gsm8k_test.parquet out`."""

import sys

import hf_gip
from hf_gip import open_dataset

SOURCE, TEST, OUT = sys.argv[1:4]

pool, test = open_dataset(SOURCE), open_dataset(TEST)
pool = pool.select(range(min(5_000, len(pool))))
target = test["question"][:100]
held_out = test["question"][100:]

# Towards the task, and away from the questions it will be judged on
subset = hf_gip.gip_select(pool, 200, target=target, exclude=held_out, encoder="lexical")
near = subset.selection.record["excluded"]["pairs"]  # pyright: ignore[reportAttributeAccessIssue] — set on the result
print(f"{len(near)} rows come too close to the test set and are left out")

hf_gip.save_subset(subset, OUT)  # rows, picks, manifest and card; `hf_gip.push_to_hub(subset, "me/name")` publishes it
report = hf_gip.verify(OUT, source=pool)
print(report)

# What anyone can do who has the folder and the pool: choose again, and compare
print(hf_gip.reproduce(OUT, source=pool, exclude=held_out))
