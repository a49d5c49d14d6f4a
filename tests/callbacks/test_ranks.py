"""Two processes agree: each sees its share of the same selection, also after a resume."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

SCRIPT = Path(__file__).with_name("ddp_callback.py")
ROWS = {"k": 8, "options": {}}
PACKS = {"k": 4, "options": {"packing": True, "max_length": 20}}
WORKERS: list[dict[str, Any]] = [
    {},
    {"dataloader_num_workers": 2},
    {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
]

pytestmark = pytest.mark.ddp


def with_options(case: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {**case, "options": {**case["options"], **options}}


def launch(cases: list[dict[str, Any]], folder: Path) -> list[list[dict[str, Any]]]:
    """What every rank reported of every case."""
    plan = folder / "cases.json"
    plan.write_text(json.dumps(cases))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    command += ["--master-port", str(port), str(SCRIPT), str(plan), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(SCRIPT.parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-4_000:]
    names = [[folder / f"case-{number}-rank-{rank}.json" for rank in (0, 1)] for number in range(len(cases))]
    return [[json.loads(name.read_text()) for name in ranks] for ranks in names]


def assert_shares_of_the_selection(ranks: list[dict[str, Any]], folder: Path, *, packed: bool) -> None:
    assert [rank["world"] for rank in ranks] == [2, 2]
    assert ranks[0]["last"] == ranks[1]["last"]
    assert ranks[0]["weights"] == ranks[1]["weights"]
    for rank in ranks:
        assert rank["steps"][0] == rank["steps"][1]
        assert rank["lr"] == 0.0
    selections = []
    for epoch in ranks[0]["seen"]:
        table = pq.read_table(folder / "gip" / f"selection_epoch_{int(epoch):05d}.parquet")
        selections.append(sorted(table["index"].to_pylist()))
        shares = [rank["seen"][epoch] for rank in ranks]
        assert sorted(shares[0] + shares[1]) == selections[-1]
        assert packed or len(shares[0]) == len(shares[1])
    assert len({tuple(selection) for selection in selections}) == len(selections), "the selection never moved"


def test_two_processes_train_on_disjoint_shares_of_one_selection(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 1}
    cases = [
        with_options(ROWS, **WORKERS[2]) | {"callback": {"features": "hidden_gradient", "scores": ["loss"]}},
        with_options(PACKS, **WORKERS[0]) | {"lora": True, "callback": {"features": "lora_gradient"}},
        with_options(ROWS, **saving) | {"folder": "resumed"},
        with_options(ROWS, **saving) | {"folder": "resumed", "resume": "checkpoint-3"},
    ]
    cases[2]["callback"] = cases[3]["callback"] = {"target": ["r3 w1 w2", "r5 w3"]}
    seen = launch(cases, tmp_path)
    assert_shares_of_the_selection(seen[0], tmp_path / "case-0", packed=False)
    assert_shares_of_the_selection(seen[1], tmp_path / "case-1", packed=True)
    assert_shares_of_the_selection(seen[2], tmp_path / "resumed", packed=False)
    for whole, again in zip(seen[2], seen[3], strict=True):
        assert again["weights"] == whole["weights"]
        assert again["seen"]["2"] == whole["seen"]["2"]
        assert set(again["seen"]["1"]) < set(whole["seen"]["1"]), "the rest of the epoch it stopped in"


@pytest.mark.heavy
def test_every_combination_on_two_processes(tmp_path: Path) -> None:
    cases = [
        with_options(base, **workers) | {"lora": lora}
        for base in (ROWS, PACKS)
        for workers in WORKERS
        for lora in (False, True)
    ]
    for number, ranks in enumerate(launch(cases, tmp_path)):
        packed = bool(cases[number]["options"].get("packing"))
        assert_shares_of_the_selection(ranks, tmp_path / f"case-{number}", packed=packed)
