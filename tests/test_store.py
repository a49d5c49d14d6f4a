"""Gradients on disk: the same as in memory, resumed after a kill, shared by processes, refused to another run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import tiny_model, tiny_rows
from torch import multiprocessing

from hf_gip.features import store
from hf_gip.features.gradients import GradientRecipe, gradient_features
from hf_gip.features.store import open_store, store_gradients

RECIPE = GradientRecipe(parameters="*.down_proj", dims=64)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SHARD_ROWS", 6)


@pytest.mark.usefixtures("small_shards")
def test_a_store_holds_what_memory_would(tmp_path: Path) -> None:
    rows = tiny_rows(20)
    rows[7]["labels"] = [-100] * len(rows[7]["labels"])
    rows[9] = {"input_ids": [1, 2] * 20}
    expected = gradient_features(tiny_model(), rows, parameters="*.down_proj", dims=64)
    made = store_gradients(tmp_path / "g", tiny_model(), rows, RECIPE)
    assert made.rows.tolist() == expected.rows.tolist()
    assert (made.left_out, made.truncated) == (1, 1)
    torch.testing.assert_close(made.features.load(), expected.features, rtol=1e-4, atol=1e-6)
    assert sorted(path.name for path in (tmp_path / "g").iterdir()) == [
        *(f"gradients-0000{number}.safetensors" for number in range(4)),
        "gradients.json",
    ]


@pytest.mark.usefixtures("small_shards")
def test_a_shard_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    rows = tiny_rows(15)
    store_gradients(tmp_path, tiny_model(), rows, RECIPE)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    (tmp_path / "gradients-00001.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"^`folder` must hold a finished store, got 2 of 3 shards in"):
        open_store(tmp_path)
    store_gradients(tmp_path, tiny_model(), rows, RECIPE)
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    assert {name for name in after if after[name] != before[name]} == {"gradients-00001.safetensors"}


@pytest.mark.parametrize("what", ["model", "recipe", "rows"])
def test_a_store_of_something_else_is_refused(tmp_path: Path, what: str) -> None:
    model, rows, recipe = tiny_model(), tiny_rows(4), RECIPE
    store_gradients(tmp_path, model, rows, recipe)
    if what == "model":
        model = tiny_model(seed=1)
    elif what == "recipe":
        recipe = GradientRecipe(parameters="*.down_proj", dims=64, seed=1)
    else:
        rows = tiny_rows(4, seed=1)
    name = "tokens" if what == "rows" else what
    ids = r"got \w{16} where this run is \w{16}"
    message = (
        rf"^`folder` must be empty or hold the same store, {ids} \(they differ in {name}\): choose another folder.$"
    )
    with pytest.raises(ValueError, match=message):
        store_gradients(tmp_path, model, rows, recipe)


@pytest.mark.usefixtures("small_shards")
def test_a_shard_of_another_store_is_refused(tmp_path: Path) -> None:
    for seed in (0, 1):
        store_gradients(tmp_path / str(seed), tiny_model(seed), tiny_rows(8), RECIPE)
    os.replace(tmp_path / "0" / "gradients-00001.safetensors", tmp_path / "1" / "gradients-00001.safetensors")
    with pytest.raises(
        ValueError, match=r"^`folder` must hold shards of one store, got gradients-00001.safetensors of"
    ):
        open_store(tmp_path / "1")


SLOW_RUN = """
import sys, time
sys.path.insert(0, {tests!r})
from tiny import tiny_model, tiny_rows
from hf_gip.features import gradients, store
store.SHARD_ROWS = 6
read = gradients.GradientReader.read
def slowly(self, batch):
    time.sleep(0.15)
    return read(self, batch)
gradients.GradientReader.read = slowly
recipe = gradients.GradientRecipe("*.down_proj", 64)
store.store_gradients({folder!r}, tiny_model(), tiny_rows(60), recipe, batch_size=2)
"""


@pytest.mark.usefixtures("small_shards")
def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    script = SLOW_RUN.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "g"))
    run = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    while len(done := list((tmp_path / "g").glob("gradients-*.safetensors"))) < 2:
        assert run.poll() is None
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert len(done) < 10
    kept = {path: path.stat().st_mtime_ns for path in done}
    made = store_gradients(tmp_path / "g", tiny_model(), tiny_rows(60), RECIPE, batch_size=2)
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items())
    expected = gradient_features(tiny_model(), tiny_rows(60), parameters="*.down_proj", dims=64)
    torch.testing.assert_close(made.features.load(), expected.features, rtol=1e-4, atol=1e-6)


def one_of_two(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    store.SHARD_ROWS = 6
    store_gradients(folder, tiny_model(), tiny_rows(30), RECIPE)
    torch.distributed.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.usefixtures("small_shards")
def test_two_processes_make_the_same_store(tmp_path: Path) -> None:
    port = 29500 + os.getpid() % 1000
    multiprocessing.spawn(one_of_two, args=(port, str(tmp_path / "two")), nprocs=2)
    one = store_gradients(tmp_path / "one", tiny_model(), tiny_rows(30), RECIPE)
    two = open_store(tmp_path / "two")
    assert json.dumps(one.identity) == json.dumps(two.identity)
    torch.testing.assert_close(two.features.load(), one.features.load(), rtol=1e-4, atol=1e-6)


def test_processes_without_a_group_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match=r"^a process group must exist where 2 processes share the work, got none"):
        store_gradients(tmp_path, tiny_model(), tiny_rows(2), RECIPE)
