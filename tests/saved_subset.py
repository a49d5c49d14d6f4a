"""A small pool, its subset, and a saved folder, shared by the tests of manifests and of the command line."""

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_dataset
from hub_server import ALICE

import hf_gip

WORDS = ["alpha", "beta", "gamma", "delta", "loop", "await", "list", "dict", "tree", "moon"]


def pool(n: int = 40) -> Dataset:
    """Texts, vectors, scores and names, the same in every process."""
    generator = np.random.default_rng(0)
    return Dataset.from_dict(
        {
            "text": [" ".join(generator.choice(WORDS, 5)) for _ in range(n)],
            "vector": generator.standard_normal((n, 4)).astype(np.float32).tolist(),
            "good": generator.integers(0, 6, n).astype(float).tolist(),
            "name": [f"row-{i}" for i in range(n)],
        }
    )


def hub_pool(rows: Dataset | None = None, repo: str = "alice/pool", **options: Any) -> Dataset:
    """The pool as a repository of alice's on the local Hub, loaded from there."""
    (pool() if rows is None else rows).push_to_hub(repo, token=ALICE, **options)
    loaded = load_dataset(repo, split="train", token=ALICE)
    assert isinstance(loaded, Dataset)
    return loaded


def save(folder: Path, k: int = 6, rows: Dataset | None = None, **options: object) -> Dataset:
    """Select from the pool, save to `folder`, give the subset back."""
    rows = pool() if rows is None else rows
    subset = hf_gip.gip_select(rows, k, features="vector", scores=["good"], id_column="name", device="cpu")
    hf_gip.save_subset(subset, folder, **options)  # pyright: ignore[reportArgumentType]
    return subset
