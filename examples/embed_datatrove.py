"""Fill a store of embeddings by a datatrove pipeline, then choose rows by it.

    pip install datatrove hf-gip
    python examples/embed_datatrove.py rows.parquet vectors 4

A step of datatrove is any callable of (data, rank, world_size). `LocalPipelineExecutor` runs it here; the same
pipeline runs under its `SlurmPipelineExecutor` or on HF Jobs, with a store in a bucket.
"""

import sys
from functools import partial
from typing import Any

from datatrove.executor import LocalPipelineExecutor  # pyright: ignore[reportMissingImports]

import hf_gip


def embed_share(data: Any, rank: int, world_size: int, *, source: str, store: str) -> None:
    """The step: each task opens the rows and embeds the shards of its rank; nothing comes from the step before."""
    hf_gip.store_embeddings(hf_gip.open_dataset(source), store, "lexical", rank=rank, world_size=world_size)


def main(source: str, store: str, tasks: int) -> None:
    """Embed in `tasks` tasks, two at a time, and choose 100 rows."""
    step = partial(embed_share, source=source, store=store)
    LocalPipelineExecutor([step], tasks=tasks, workers=2, logging_dir=f"{store}-logs").run()
    subset = hf_gip.gip_select(hf_gip.open_dataset(source), 100, features=store)
    hf_gip.save_subset(subset, f"{store}-chosen")
    print(f"{len(subset)} rows: {store}-chosen")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
