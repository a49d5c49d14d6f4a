"""80 MB of rows handled in a process of their own: how much memory that took."""

import subprocess
import sys
from collections.abc import Mapping

MUCH = """
import sys, tracemalloc
import pyarrow as pa, torch
from datasets import Dataset
import hf_gip, hf_gip.hub.push as push
from hf_gip.hashing import hash_columns
push._draw = lambda *_: False

def rows():
    for i in range(16_000):
        yield {"text": f"{i} " * 1_000, "vector": [float(i % 7), 1.0]}

big = Dataset.from_generator(rows)
assert big.data.nbytes > 80e6
record = hf_gip.gip_select(big, 1, features="vector", device="cpu").selection.record
subset = big.select(range(15_999, -1, -1))
record = {**record, "column_hashes": hash_columns(subset)}
subset.selection = hf_gip.Selection(torch.arange(15_999, -1, -1), torch.ones(16_000).double(), record=record)
tracemalloc.start()
getattr(hf_gip, sys.argv[1])(subset, sys.argv[2], max_shard_size="20MB")
print(tracemalloc.get_traced_memory()[1], pa.default_memory_pool().max_memory())
"""


def peak_memory(function: str, where: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """Bytes that Python and Arrow held at most while `hf_gip.FUNCTION` wrote the rows to `where`."""
    command = [sys.executable, "-c", MUCH, function, where]
    done = subprocess.run(command, env=dict(environment), check=True, stdout=subprocess.PIPE, text=True)
    python, arrow = map(int, done.stdout.split())
    return python, arrow
