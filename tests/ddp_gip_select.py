"""One rank of tests/dataset/test_gip_ranks.py: `gip_select` in a process group, and what this rank saw of it."""

import datetime
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from datasets import Dataset, config, disable_progress_bars

import hf_gip
from hf_gip.features import embed
from hf_gip.features.encoders import LexicalEncoder

N = 600
EXCLUDE = {"exclude": ["row 5 about 5 ships and 35 crews", "row 77 about 9 ships"], "exclude_threshold": 0.7}
OPTIONS: dict[str, dict[str, Any]] = {
    "pool": {},
    "information": {"objective": "information"},
    "target": {"target": ["row about 3 ships"]},
    "target rows": {"target": Dataset.from_dict({"text": ["row about 3 ships", "16 crews"]}), "target_weight": 0.7},
    "scores": {"scores": ["good"]},
    "cover": {"cover_columns": ["topic"]},
    "exclude": EXCLUDE,
    "a rank left empty": {"exclude": [f"zebra {i}" for i in range(9)], "exclude_threshold": 0.3},
    "quotas": {"group_column": "topic", "max_per_group": {"a": 2, "b": 3}, "min_per_group": 2},
    "budget": {"max_tokens": 180, "group_column": "topic", "min_per_group": 3},
    "initial rows": {"initial_rows": [3, 599, 301], "target": ["row about 3 ships"]},
    "all": {
        **EXCLUDE,
        "target": ["row about 3 ships"],
        "target_weight": 0.5,
        "cover_columns": {"topic": 2.0},
        "scores": ["good"],
        "group_column": "topic",
        "min_per_group": 5,
        "initial_rows": [98, 400],
    },
    "column": {"features": "vector", "target": [[1.0, 0.0, 0.5]]},
}


def pool() -> Dataset:
    """Rows of words, of which the last two hundred are about zebras alone."""
    words = [f"row {i} about {i % 17} ships and {i * 7 % 1001} crews" for i in range(400)]
    return Dataset.from_dict(
        {
            "text": words + [f"zebra {i % 9} zebra" for i in range(200)],
            "good": [float(i * 7 % 13) for i in range(N)],
            "topic": ["abc"[i % 3] for i in range(N)],
            "vector": [[i % 7 - 3.0, i % 5 - 2.0, i % 11 - 5.5] for i in range(N)],
        }
    )


def choose(store: str) -> dict[str, Any]:
    """Picks, gains and record of every set of options, by texts, a column and a store."""
    results = {}
    for name, options in OPTIONS.items():
        words = {} if "features" in options else {"encoder": "lexical"}
        sources = [words] if "features" in options or name == "information" else [words, {"features": store}]
        for source in sources:
            selection = hf_gip.gip_select(pool(), 21, **{**source, **options}).selection
            record = {part: selection.record[part] for part in ("features", "queries", "excluded", "scores")}
            results[f"{name} {'stored' if source != words else ''}"] = [
                selection.indices.tolist(),
                selection.gains.tolist(),
                record | {"limits": selection.record.get("limits")},
            ]
    return results


class Dying(LexicalEncoder):
    """An encoder whose process on rank 1 is gone after some texts."""

    calls = 0

    def encode(self, sentences: Sequence[str]) -> Any:
        self.calls += 1
        if dist.get_rank() == 1 and self.calls == 4:
            os._exit(9)
        return super().encode(sentences)


def refused(name: str) -> str:
    """What is said of a call that ranks cannot make, or make differently."""
    rank = dist.get_rank()
    options: dict[str, Any] = {
        "differ": {"noise": 0.1 + rank},
        "queries": {"scores": ["good"], "scores_as": "queries"},
        "one": {"features": "vector" if rank == 0 else "vectors"},
    }[name]
    try:
        hf_gip.gip_select(pool(), 5, **({"encoder": "lexical"} if name != "one" else {}), **options)
    except (ValueError, RuntimeError) as error:
        return str(error)
    return ""


def main() -> None:
    """Write this rank's JSON file."""
    disable_progress_bars()
    out, mode = Path(sys.argv[1]), sys.argv[2]
    config.HF_DATASETS_CACHE = out / f"cache-{mode}"
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    rank, world = dist.get_rank(), dist.get_world_size()
    if mode == "choose":
        results: Any = choose(str(out / "store"))
    elif mode == "refused":
        results = {name: refused(name) for name in ("differ", "queries", "one")}
    else:
        embed.SHARD_ROWS = 32
        hf_gip.gip_select(pool(), 21, encoder=Dying(), encoder_id="dying")
        results = {}
    part = out / f"{mode}-{world}-{rank}.part"
    part.write_text(json.dumps(results))
    part.rename(part.with_suffix(".json"))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
