# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-gip==0.1.0"]
#
# [tool.hf-jobs]
# flavor = "cpu-basic"
# timeout = "1h"
# secrets = ["HF_TOKEN"]
# labels = { tool = "hf-gip" }
# ///
"""Check a published subset without trusting whoever published it; exit code 0 only if nothing failed.

Run it here:

    uv run verify-subset.py me/alpaca-gip-1k
    uv run verify-subset.py me/alpaca-gip-1k --reproduce

or on the Hub's machines:

    hf jobs uv run https://huggingface.co/datasets/hf-gip/scripts/raw/main/verify-subset.py me/alpaca-gip-1k

Files, card, selection and rows are held against `gip/manifest.json`, and the rows against their source at the recorded
commit. With `--reproduce` the selection is made again.
"""

import argparse
import sys

import hf_gip

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("input", metavar="INPUT", help="dataset repository to check")
parser.add_argument("--revision", help="branch, tag or commit")
parser.add_argument("--source", help="the pool, where it did not come from the Hub: a file, folder or Hub id")
parser.add_argument("--reproduce", action="store_true", help="select again, too")
options = parser.parse_args()

try:
    report = hf_gip.verify(options.input, revision=options.revision, source=options.source)
    print(report)
    good = report.ok
    if good and options.reproduce:
        reproduction = hf_gip.reproduce(options.input, revision=options.revision, source=options.source)
        print(reproduction)
        good = reproduction.ok
except (ValueError, TypeError, OSError) as error:
    sys.exit(f"verify-subset: {' '.join(str(error).split())}")
sys.exit(0 if good else 1)
