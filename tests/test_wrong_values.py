"""Every option of every public function, given wrong values: it works, or one sentence names the option."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

import hf_gip
from hf_gip.core.checks import shown

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
    np.array(["a"]),
)
ROWS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
QUERIES = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
CHOSEN = hf_gip.gip(ROWS, QUERIES, 5)
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
        "limits": None,
        "group": None,
        "progress": None,
    },
    hf_gip.spice: {
        "gradients": ROWS,
        "k": 5,
        "alpha": 1.0,
        "conflict_penalty": 0.1,
        "stop_ratio": None,
        "fisher": "full",
        "window": None,
    },
    hf_gip.gtp: {
        "trajectories": [ROWS, ROWS.flip(0)],
        "target": [QUERIES, QUERIES],
        "k": 5,
        "rates": [1.0, 0.5],
        "ridge": 0.1,
        "max_passes": 5,
        "group": None,
        "progress": None,
    },
    hf_gip.less: {
        "trajectories": [ROWS, ROWS.flip(0)],
        "target": [QUERIES, QUERIES],
        "k": 5,
        "rates": [1.0, 0.5],
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
    hf_gip.Endpoint: {"url": "http://127.0.0.1:9/v1", "model": "m", "api_key": "none", "concurrency": 2},
}


def faults(call: Callable[..., Any], option: str) -> Iterator[str]:
    """What is said of wrong values that is not one sentence with the option's name; `WILD` has few right ones."""
    refused = 0
    for value in WILD:
        try:
            call(**CALLS[call] | {option: value})
        except (TypeError, ValueError) as error:
            refused += 1
            if not re.fullmatch(rf"[^\n]*`{option}`[^\n]*\.", str(error)):
                yield f"{call.__name__}({option}={shown(value)}): {type(error).__name__}: {error}"
        except Exception as error:  # whatever else a wrong value brings about is what is looked for
            yield f"{call.__name__}({option}={shown(value)}): {type(error).__name__}: {error}"
    if refused < len(WILD) // 2:
        yield f"{call.__name__}({option}=…): only {refused} of {len(WILD)} wrong values were refused"


def test_a_wrong_value_is_named_in_one_sentence() -> None:
    """Outside pytest, where no type checker stands before our own checks."""
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


if __name__ == "__main__":
    found = [fault for call, options in CALLS.items() for option in options for fault in faults(call, option)]
    sys.stdout.write("".join(f"{fault}\n" for fault in found))
