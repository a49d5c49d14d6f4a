"""Choose rows of a matrix that is shared over processes: each reads its own part, all get the picks of one process.

    torchrun --nproc-per-node 8 examples/select_many_gpus.py vectors.npy 1000 picks.npy

Without GPUs the processes talk over gloo. `pool.select(numpy.load("picks.npy"))` are the rows.
"""

import os
import sys

import numpy as np
import torch
import torch.distributed as dist

from hf_gip import gip


def main(vectors: str, k: int, out: str) -> None:
    """Every rank selects; the first one saves the positions in pick order."""
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if gpu else "gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    whole = np.load(vectors, mmap_mode="r")  # only this rank's part is read
    part = whole[len(whole) * rank // world : len(whole) * (rank + 1) // world]
    mine = torch.from_numpy(part.astype(np.float32)).to(device)
    chosen = gip(mine, None, k, group=dist.group.WORLD)
    if rank == 0:
        np.save(out, chosen.indices.cpu().numpy())
        print(f"{len(chosen)} of {len(whole):,} rows by {world} process(es): {out}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
