"""Gradient stores of EleutherAI's bergson, read in place: collected there for large models, chosen from here."""

import json
from pathlib import Path
from typing import Any

import torch

from hf_gip.features.matrix_files import FileMatrix, concat, memory_map

TYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}


def bergson_rows(folder: str | Path) -> FileMatrix:
    """Open a store written by `bergson build`: one row per example, its modules' gradients side by side.

    The format is that of bergson 2.5: `gradients.bin`, a plain matrix, beside `info.json` with `num_grads`,
    `grad_sizes` (width per module, in order) and `base_dtype`. A folder of such folders, one per shard, is read as
    one matrix in the order of their names.

    Args:
        folder: The index folder, or the folder of shards.

    Returns:
        The rows, in the order of the dataset the store was made of.

    Raises:
        FileNotFoundError: If the folder holds no store.
        ValueError: If the store has a row per token, an unknown number type, or is cut off.
    """
    folder = Path(folder)
    shards = (
        [folder] if (folder / "info.json").exists() else sorted(path.parent for path in folder.glob("*/info.json"))
    )
    if not shards:
        raise FileNotFoundError(
            f"`folder` must hold a bergson store (`info.json`, `gradients.bin`), got none in {folder}."
        )
    parts = []
    for shard in shards:
        info = _info(shard)
        kind = info.get("base_dtype")
        if not isinstance(kind, str) or kind not in TYPES:
            raise ValueError(
                f"`folder` must hold a store with a `base_dtype` among {', '.join(TYPES)}, got {kind!r} in {shard}: "
                "build it with a current bergson."
            )
        if info.get("attribute_tokens"):
            raise ValueError(
                f"`folder` must hold one gradient per example, got one per token in {shard}: build it without "
                "`attribute_tokens`."
            )
        shape = info["num_grads"], sum(info["grad_sizes"].values())
        parts.append(memory_map(shard / "gradients.bin", TYPES[kind], shape, 0))
    return concat(parts, str(folder))


def _info(shard: Path) -> dict[str, Any]:
    """What describes a shard.

    Raises:
        ValueError: If it says no number of rows or no widths.
    """
    try:
        info = json.loads((shard / "info.json").read_text())
        sizes = [info["num_grads"], *info["grad_sizes"].values()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        info, sizes = {}, []
    if not sizes or any(not isinstance(size, int) or isinstance(size, bool) or size < 1 for size in sizes):
        raise ValueError(f"`folder` must hold `num_grads` and `grad_sizes` in info.json, got others in {shard}.")
    return info
