"""Every option of every public function, given wrong values: it works, or one sentence names the option."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from tiny_models import tiny_model, tiny_rows

import hf_gip
from hf_gip.core.validation import brief

WILD: tuple[Any, ...] = (
    None,
    "x",
    "",
    -1,
    0,
    2.5,
    float("nan"),
    True,
    [],
    {},
    object(),
    b"x",
    10**400,
    [None],
    [1, "a"],
    torch.zeros(0),
    torch.full((3, 6), float("nan")),
    np.array([b"a"]),
)
ROWS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
QUERIES = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
CHOSEN = hf_gip.gip(ROWS, QUERIES, 5)
POOL = Dataset.from_dict(
    {
        "text": [f"row {row} of many" for row in range(40)],
        "vector": ROWS.tolist(),
        "score": [float(row % 5) for row in range(40)],
        "topic": ["ab"[row % 2] for row in range(40)],
    }
)
TOKENS = Dataset.from_list(tiny_rows(6))
GRADIENTS = {"target_modules": "last_layer", "projection_dim": 4, "max_length": 16, "batch_size": 8, "seed": 0}


class Words:
    """As much of a tokenizer as a model can be named with."""

    name_or_path = "words"

    def __len__(self) -> int:
        return 4

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [len(text)]}


STORE = f"{tempfile.mkdtemp()}/store"


def store_embeddings(**options: Any) -> Any:
    """Into one store, as other names are as good."""
    return hf_gip.store_embeddings(store=STORE, **options)


CALLS: dict[Callable[..., Any], dict[str, Any]] = {
    hf_gip.gip: {
        "features": ROWS,
        "queries": QUERIES,
        "k": 5,
        "objective": "projection",
        "noise": 0.1,
        "precision": None,
        "pursuit": "orthogonal",
        "prefilter": None,
        "constraints": None,
        "group": None,
        "progress": None,
    },
    hf_gip.spice: {
        "gradients": ROWS,
        "k": 5,
        "alpha": 1.0,
        "absolute_alpha": False,
        "conflict_penalty": 0.1,
        "stop_ratio": None,
        "fisher": "full",
        "window": None,
    },
    hf_gip.gtp: {
        "trajectories": [ROWS, ROWS.flip(0)],
        "target": [QUERIES, QUERIES],
        "k": 5,
        "learning_rates": [1.0, 0.5],
        "ridge": 0.1,
        "max_passes": 5,
        "group": None,
        "progress": None,
    },
    hf_gip.less: {
        "trajectories": [ROWS, ROWS.flip(0)],
        "target": [QUERIES, QUERIES],
        "k": 5,
        "learning_rates": [1.0, 0.5],
        "subtasks": [0, 0, 1],
    },
    hf_gip.rds: {"features": ROWS, "queries": QUERIES, "k": 5},
    hf_gip.explain: {
        "selection": CHOSEN,
        "row": 3,
        "features": ROWS,
        "queries": QUERIES,
        "precision": None,
        "names": None,
    },
    store_embeddings: {
        "dataset": POOL,
        "encoder": "lexical",
        "columns": None,
        "template": None,
        "dtype": "float16",
        "shard_rows": None,
        "rank": None,
        "world_size": None,
        "device": "cpu",
        "encoder_id": None,
        "encoder_kwargs": None,
    },
    hf_gip.embed: {
        "dataset": POOL,
        "encoder": "lexical",
        "encoder_id": None,
        "columns": None,
        "template": None,
        "device": "cpu",
    },
    hf_gip.compare: {
        "subsets": {"a": [1, 2, 3]},
        "pool": POOL,
        "scores": ["score"],
        "target": None,
        "features": "vector",
        "columns": None,
        "template": None,
        "encoder": "lexical",
        "encoder_id": None,
        "noise": 0.1,
        "groups": "topic",
        "seeds": 2,
        "baselines": False,
        "device": "cpu",
    },
    hf_gip.score_with_llm: {
        "dataset": POOL,
        "judge": lambda prompts: ['{"good": 3}'] * len(prompts),
        "name": "threes",
        "attributes": ["good"],
        "columns": None,
        "template": None,
    },
    hf_gip.LocalModel: {"model": tiny_model(), "tokenizer": Words(), "batch_size": 8, "device": "cpu"},
    hf_gip.gradient_features: GRADIENTS
    | {"model": tiny_model(), "rows": TOKENS, "side": None, "scaling": None, "normalize": False},
    hf_gip.gip_select: {
        "dataset": POOL,
        "k": 5,
        "scores": ["score"],
        "scores_as": "precision",
        "target": None,
        "target_weight": None,
        "cover_columns": None,
        "features": "vector",
        "columns": None,
        "template": None,
        "encoder": "lexical",
        "encoder_id": None,
        "objective": "projection",
        "pursuit": "orthogonal",
        "noise": None,
        "diversity": None,
        "quality": None,
        "whiten": False,
        "exclude": None,
        "exclude_threshold": 0.9,
        "initial_rows": None,
        "group_column": "topic",
        "max_per_group": 4,
        "min_per_group": None,
        "max_tokens": None,
        "id_column": None,
        "device": "cpu",
    },
    hf_gip.spice_select: GRADIENTS
    | {
        "dataset": TOKENS,
        "k": 2,
        "model": tiny_model(),
        "tokenizer": None,
        "columns": None,
        "window": None,
        "update_every": None,
        "normalize": True,
        "alpha": 1.0,
        "absolute_alpha": False,
        "conflict_penalty": 0.1,
        "stop_ratio": None,
        "fisher": "full",
        "id_column": None,
        "device": "cpu",
    },
    hf_gip.gtp_select: GRADIENTS  # and so `gradient_trajectories`, whose checks these are
    | {
        "k": 2,
        "ridge": None,
        "id_column": None,
        "dataset": TOKENS,
        "model": tiny_model(),
        "target": None,
        "tokenizer": None,
        "checkpoints": None,
        "learning_rates": None,
        "columns": None,
        "subspace": "random",
        "adam": False,
        "normalize": True,
        "warmup_fraction": 0.5,
        "warmup_epochs": 1,
        "warmup_learning_rate": 1e-4,
        "device": "cpu",
    },
    hf_gip.ChatEndpoint: {"url": "http://127.0.0.1:9/v1", "model": "m", "api_key": "none", "concurrency": 2},
}

UNUSED = {(hf_gip.compare, "encoder"), (hf_gip.gip_select, "encoder")}  # beside ready vectors; `embed` has its own


def faults(call: Callable[..., Any], option: str) -> Iterator[str]:
    """What is said of wrong values that is not one sentence with the option's name; `WILD` has few right ones."""
    refused = 0
    for value in WILD:
        try:
            call(**CALLS[call] | {option: value})
        except (TypeError, ValueError, OSError) as error:  # the last where a place is meant
            refused += 1
            if not re.fullmatch(rf"[^\n]*`{option}`[^\n]*\.", str(error)):
                yield f"{call.__name__}({option}={brief(value)}): {type(error).__name__}: {error}"
        except Exception as error:  # whatever else a wrong value brings about is what is looked for
            yield f"{call.__name__}({option}={brief(value)}): {type(error).__name__}: {error}"
    if refused < len(WILD) // 2:
        yield f"{call.__name__}({option}=…): only {refused} of {len(WILD)} wrong values were refused"


def test_a_wrong_value_is_named_in_one_sentence() -> None:
    """Outside pytest, where no type checker stands before our own checks."""
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


if __name__ == "__main__":
    disable_progress_bars()
    swept = [(call, option) for call, options in CALLS.items() for option in options if (call, option) not in UNUSED]
    found = [fault for call, option in swept for fault in faults(call, option)]
    sys.stdout.write("".join(f"{fault}\n" for fault in found))
