"""Gradients on disk: the same as in memory, resumed after a kill, shared by processes, refused to another run."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model, tiny_rows
from torch import multiprocessing, nn

from hf_gip.distributed import first_available, run_on_all, run_on_main, world_group
from hf_gip.features import gradient_store as store
from hf_gip.features.gradient_store import open_store, store_gradients
from hf_gip.features.gradients import gradient_features
from hf_gip.features.per_example_gradients import GradientRecipe

RECIPE = GradientRecipe(target_modules="*.down_proj", projection_dim=64)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SHARD_ROWS", 6)


@pytest.mark.usefixtures("small_shards")
def test_a_store_holds_what_memory_would(tmp_path: Path) -> None:
    rows = tiny_rows(20)
    rows[7]["labels"] = [-100] * len(rows[7]["labels"])
    rows[9] = {"input_ids": [1, 2] * 20}
    expected = gradient_features(tiny_model(), rows, target_modules="*.down_proj", projection_dim=64)
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
    message = (
        f"`folder` must hold a finished store, got 2 of 3 shards in {tmp_path}: run `store_gradients` again, it goes "
        "on where it stopped."
    )
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
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
        recipe = GradientRecipe(target_modules="*.down_proj", projection_dim=64, seed=1)
    else:
        rows = tiny_rows(4, seed=1)
    name = "tokens" if what == "rows" else what
    ids = r"got \w{16} where this run is \w{16}"
    message = (
        rf"^`folder` must be empty or hold the same store, {ids} \(they differ in {name}\): choose another folder\.$"
    )
    with pytest.raises(ValueError, match=message):
        store_gradients(tmp_path, model, rows, recipe)


@pytest.mark.usefixtures("small_shards")
def test_a_shard_of_another_store_is_refused(tmp_path: Path) -> None:
    for seed in (0, 1):
        store_gradients(tmp_path / str(seed), tiny_model(seed), tiny_rows(8), RECIPE)
    os.replace(tmp_path / "0" / "gradients-00001.safetensors", tmp_path / "1" / "gradients-00001.safetensors")
    message = (
        r"^`folder` must hold shards of one store, got gradients-00001\.safetensors of \w{16} in the store \w{16}: "
        r"delete the shard\.$"
    )
    with pytest.raises(ValueError, match=message):
        open_store(tmp_path / "1")


SLOW_RUN = """
import sys, time
sys.path.insert(0, {tests!r})
from tiny_models import tiny_model, tiny_rows
from hf_gip.features import gradient_store as store
from hf_gip.features import per_example_gradients as gradients
store.SHARD_ROWS = 6
read = gradients.PerExampleGradients.compute
def slowly(self, batch):
    time.sleep(0.15)
    return read(self, batch)
gradients.PerExampleGradients.compute = slowly
recipe = gradients.GradientRecipe("*.down_proj", 64)
store.store_gradients({folder!r}, tiny_model(), tiny_rows(60), recipe, batch_size=2)
"""


@pytest.mark.usefixtures("small_shards")
def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    script = SLOW_RUN.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path / "g"))
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
    expected = gradient_features(tiny_model(), tiny_rows(60), target_modules="*.down_proj", projection_dim=64)
    torch.testing.assert_close(made.features.load(), expected.features, rtol=1e-4, atol=1e-6)


def told(work: Callable[[], object]) -> str:
    """The error that `work` ends with."""
    with pytest.raises((ValueError, RuntimeError, OSError, IndexError)) as error:
        work()
    return f"{type(error.value).__name__}: {error.value}"


def poisoned() -> tuple[nn.Module, list[dict[str, list[int]]]]:
    """A model and rows of which one, in the second shard, has no finite gradient."""
    model, rows = tiny_model(), tiny_rows(18)
    rows = [{name: [min(token, 46) for token in tokens] for name, tokens in row.items()} for row in rows]
    rows[8] = {"input_ids": [1, 2, 47], "labels": [1, 2, 47]}
    with torch.no_grad():
        model.get_input_embeddings().weight[47] = torch.inf
    return model, rows


def full_disk() -> None:
    if torch.distributed.get_rank() == 1:
        raise OSError("no space left")


def one_of_two(rank: int, port: int, folder: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    store.SHARD_ROWS = 6
    store_gradients(folder / "two", tiny_model(), tiny_rows(30), RECIPE)
    seen = {
        "late": first_available([0, 1, 2] if rank == 0 else [2], world_group()),
        "one": first_available(None if rank == 0 else "found", world_group()),
        "none": first_available(None, world_group()),
        "not finite": told(lambda: store_gradients(folder / "bad", *poisoned(), RECIPE)),
        "own folders": told(lambda: store_gradients(folder / f"of{rank}", tiny_model(), tiny_rows(30), RECIPE)),
        "other models": told(lambda: store_gradients(folder / "one", tiny_model(rank), tiny_rows(4), RECIPE)),
        "full disk": told(lambda: run_on_all(full_disk, world_group())),
        "main": run_on_main(lambda: f"of rank {rank}", world_group()),
        "main fails": told(lambda: run_on_main(lambda: [][rank], world_group())),
    }
    (folder / f"{rank}.json").write_text(json.dumps(seen))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder that two ranks shared, and what each saw."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(one_of_two, args=(29500 + os.getpid() % 1000, folder), nprocs=2)
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.ddp
@pytest.mark.usefixtures("small_shards")
def test_two_processes_make_the_same_store(ranks: tuple[Path, Any], tmp_path: Path) -> None:
    one = store_gradients(tmp_path / "one", tiny_model(), tiny_rows(30), RECIPE)
    two = open_store(ranks[0] / "two")
    assert json.dumps(one.identity) == json.dumps(two.identity)
    torch.testing.assert_close(two.features.load(), one.features.load(), rtol=1e-4, atol=1e-6)


@pytest.mark.ddp
def test_ranks_that_see_different_things_go_the_same_way(ranks: tuple[Path, Any]) -> None:
    for seen in ranks[1]:
        assert (seen["late"], seen["one"], seen["none"]) == ([0, 1, 2], "found", None)


@pytest.mark.ddp
def test_an_error_on_one_rank_ends_both(ranks: tuple[Path, Any]) -> None:
    first, second = ranks[1]
    for seen in (first, second):
        assert seen["not finite"] == (
            "NonFiniteGradientError: `model` must give finite gradients, got NaN or infinity in row 8: look at these "
            "rows, or load the model in bfloat16 or float32."
        )
    for rank, (seen, missing) in enumerate([(first, 2), (second, 3)]):
        assert seen["own folders"] == (
            f"ValueError: `folder` must be one that all ranks share, got {missing} of 5 shards missing in "
            f"{ranks[0] / f'of{rank}'} on rank {rank}: put it, or the datasets cache (`HF_DATASETS_CACHE`), on a "
            "shared disk."
        )
    assert first["other models"] == second["other models"]
    assert re.fullmatch(
        r"ValueError: `model`, `rows` and options must be the same on every rank, got stores \w{16}, \w{16}: load one "
        r"checkpoint everywhere, or draw weights from one seed\.",
        first["other models"],
    )
    assert second["full disk"] == "OSError: no space left"
    assert first["full disk"] == "RuntimeError: rank 1 failed, OSError: no space left"


@pytest.mark.ddp
def test_what_the_first_rank_does_alone_reaches_both_also_an_error(ranks: tuple[Path, Any]) -> None:
    first, second = ranks[1]
    assert first["main"] == second["main"] == "of rank 0"
    assert first["main fails"] == "IndexError: list index out of range"
    assert second["main fails"] == "RuntimeError: rank 0 failed, IndexError: list index out of range"


def test_processes_without_a_group_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = (
        "a process group must exist where 2 processes share the work, got none: create `accelerate.PartialState()` "
        "first."
    )
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        store_gradients(tmp_path, tiny_model(), tiny_rows(2), RECIPE)
