# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-gip==0.1.0"]
#
# [tool.hf-jobs]
# flavor = "cpu-upgrade"
# timeout = "2h"
# secrets = ["HF_TOKEN"]
# labels = { tool = "hf-gip" }
# ///
r"""Choose the training rows that matter, and publish them with proof of how they were chosen.

Run it here:

    uv run select-subset.py tatsu-lab/alpaca me/alpaca-gip-1k --k 1000

or on the Hub's machines:

    hf jobs uv run https://huggingface.co/datasets/hf-gip/scripts/raw/main/select-subset.py \
        tatsu-lab/alpaca me/alpaca-gip-1k --k 1000

The output repository holds the rows, `gip/manifest.json` (method, parameters, source commit, hashes) and a card.
"""

import argparse
import sys

from datasets import Dataset, load_dataset

import hf_gip

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("input", metavar="INPUT", help="dataset to choose from")
parser.add_argument("output", metavar="OUTPUT", help="dataset repository to publish to")
parser.add_argument("--k", type=int, required=True, help="how many rows")
parser.add_argument("--scores", help="numeric columns, larger is better: a,b")
parser.add_argument("--target", help="dataset that shows what is wanted")
parser.add_argument("--target-config", help="its configuration")
parser.add_argument("--target-split", default="train", help="its split (default: train)")
parser.add_argument("--columns", help="text columns, instead of the detected ones: a,b")
parser.add_argument("--encoder", help="'lexical', or a sentence-transformers id (default: all-MiniLM-L6-v2)")
parser.add_argument("--config", help="configuration of INPUT")
parser.add_argument("--split", default="train", help="split of INPUT (default: train)")
parser.add_argument("--revision", help="revision of INPUT")
parser.add_argument("--no-include-rows", action="store_true", help="publish positions and hashes only")
seen = parser.add_mutually_exclusive_group()
seen.add_argument("--private", action="store_true", default=None, help="make a private repository")
seen.add_argument(
    "--public", dest="private", action="store_false", help="make a public one, whatever the rows' origin"
)
options = parser.parse_args()


def listed(names: str | None) -> list[str] | None:
    """`"a,b"` as a list."""
    return None if names is None else names.split(",")


try:
    pool = load_dataset(options.input, options.config, split=options.split, revision=options.revision)
    assert isinstance(pool, Dataset)  # a split was named
    target = None
    if options.target is not None:
        target = load_dataset(options.target, options.target_config, split=options.target_split)
        assert isinstance(target, Dataset)
    subset = hf_gip.gip_select(
        pool,
        options.k,
        scores=listed(options.scores),
        target=target,
        columns=listed(options.columns),
        encoder=options.encoder,
    )
    commit = hf_gip.push_to_hub(
        subset, options.output, include_rows=not options.no_rows, private=options.private, split="train"
    )
except (ValueError, TypeError, OSError) as error:
    sys.exit(f"select-subset: {' '.join(str(error).split())}")
shown = "private" if commit.private else "public"
print(f"published {len(subset):,} of {len(pool):,} rows: {commit.commit_url} ({shown})")
print(f"check them: uv run verify-subset.py {options.output}")
