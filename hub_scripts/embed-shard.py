# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-gip==0.1.0"]
#
# [tool.hf-jobs]
# flavor = "l4x1"
# timeout = "6h"
# secrets = ["HF_TOKEN"]
# labels = { tool = "hf-gip" }
# ///
r"""Embed one worker's share of a dataset into a store that many workers fill.

Run it here, alone:

    uv run embed-shard.py tatsu-lab/alpaca vectors

or as eight of the Hub's machines, each with a rank of its own:

    for rank in 0 1 2 3 4 5 6 7; do
        hf jobs uv run --detach https://huggingface.co/datasets/hf-gip/scripts/raw/main/embed-shard.py \
            tatsu-lab/alpaca hf://buckets/me/alpaca-vectors --rank $rank --world-size 8
    done

A job that is stopped loses the shard it was at; the same line goes on there. Any job may run twice. When all shards
are complete: `hf-gip select tatsu-lab/alpaca --features hf://buckets/me/alpaca-vectors --k 1000 --out chosen`.
"""

import argparse
import sys

import hf_gip

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("input", metavar="INPUT", help="dataset to embed")
parser.add_argument("store", metavar="STORE", help="hf://buckets/me/vectors, s3://bucket/vectors, or a folder")
parser.add_argument("--rank", type=int, help="number of this worker, from 0 (default: RANK, or Slurm's)")
parser.add_argument("--world-size", type=int, help="number of workers (default: WORLD_SIZE, or Slurm's)")
parser.add_argument("--encoder", default="sentence-transformers/all-MiniLM-L6-v2", help="'lexical', or a model id")
parser.add_argument("--columns", help="text columns, instead of the detected ones: a,b")
parser.add_argument("--config", help="configuration of INPUT")
parser.add_argument("--split", default="train", help="split of INPUT (default: train)")
parser.add_argument("--revision", help="revision of INPUT")
options = parser.parse_args()

try:
    progress = hf_gip.store_embeddings(
        hf_gip.open_dataset(options.input, split=options.split, config=options.config, revision=options.revision),
        options.store,
        options.encoder,
        columns=None if options.columns is None else options.columns.split(","),
        rank=options.rank,
        world_size=options.world_size,
    )
except (ValueError, TypeError, OSError, ImportError) as error:
    sys.exit(f"embed-shard: {' '.join(str(error).split())}")
print(f"embedded {progress.made:,} shards: {progress.complete:,} of {progress.shards:,} are in {options.store}")
