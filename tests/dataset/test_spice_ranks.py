"""SPICE on two ranks: the rows one process chooses, one writer of the state, an error told by all."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, config, disable_caching, enable_caching
from tiny_models import tiny_model, tiny_rows
from torch import multiprocessing

import hf_gip
from hf_gip.dataset import spice as spice_dataset
from hf_gip.features import proxy

pytestmark = pytest.mark.ddp
OPTIONS: dict[str, dict[str, Any]] = {
    "trained": {"window": 20, "update_every": 3, "batch_size": 4},
    "frozen": {"window": None, "update_every": None, "batch_size": 4},
}


def chosen(cache: Path, name: str) -> Any:
    config.HF_DATASETS_CACHE = cache
    proxy.LEARNING_RATE, spice_dataset.SAVE_SECONDS = 0.05, 0.0
    subset = hf_gip.spice_select(Dataset.from_list(tiny_rows(70)), 21, model=tiny_model(), **OPTIONS[name])
    return (
        subset.selection.indices.tolist(),
        subset.selection.gains.tolist(),
        subset.selection.record["proxy"]["steps"],
    )


def choosing(folder: Path) -> dict[str, Any]:
    return {name: chosen(folder / "cache", name) for name in OPTIONS}


def failing(folder: Path) -> str:
    config.HF_DATASETS_CACHE = folder / "cache"
    model, rows = tiny_model(), tiny_rows(30)
    rows = [{name: [min(token, 46) for token in tokens] for name, tokens in row.items()} for row in rows]
    rows[17] = {"input_ids": [1, 2, 47], "labels": [1, 2, 47]}
    with torch.no_grad():
        model.get_input_embeddings().weight[47] = torch.inf
    with pytest.raises(ValueError) as told:  # noqa: PT011 — the message goes back to the test
        hf_gip.spice_select(Dataset.from_list(rows), 5, model=model)
    return str(told.value)


def uncached(folder: Path) -> str:
    disable_caching()
    with pytest.raises(ValueError) as told:  # noqa: PT011 — the message goes back to the test
        hf_gip.spice_select(Dataset.from_list(tiny_rows(9)), 5, model=tiny_model(), update_every=None)
    enable_caching()
    return str(told.value)


def apart(folder: Path) -> str:
    rank = torch.distributed.get_rank()
    folder = folder / f"cache{rank}"
    spice_dataset.SAVE_SECONDS = 0.0
    config.HF_DATASETS_CACHE = folder
    asked = {"model": tiny_model(), "window": 10}
    run = spice_dataset.WindowedRun.choose

    def once(self: Any, *arguments: Any) -> None:
        if self.state.window == 2:
            raise KeyboardInterrupt
        run(self, *arguments)

    spice_dataset.WindowedRun.choose = once
    with pytest.raises(KeyboardInterrupt):
        hf_gip.spice_select(Dataset.from_list(tiny_rows(40)), 16, **asked)
    spice_dataset.WindowedRun.choose = run
    with pytest.raises(RuntimeError) as told:
        hf_gip.spice_select(Dataset.from_list(tiny_rows(40)), 16, **asked)
    return str(told.value)


def forgetful(folder: Path) -> Any:
    """A selection that only the first rank still has: what a kill leaves, or caches on two machines."""
    own = folder / f"own{torch.distributed.get_rank()}"
    options: dict[str, Any] = {"window": 10, "seed": 5}
    rows = Dataset.from_list(tiny_rows(30))

    def select() -> list[int]:
        config.HF_DATASETS_CACHE = own
        return hf_gip.spice_select(rows, 9, model=tiny_model(), **options).selection.indices.tolist()

    spice_dataset.SAVE_SECONDS = 10.0
    first = select()
    if torch.distributed.get_rank() == 1:
        shutil.rmtree(own)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spice_dataset.WindowedRun, "choose", lambda *_: pytest.fail("chosen again"))
        return [first == select(), len(list(own.rglob("record.json")))]


def one_of_two(rank: int, port: int, folder: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    (folder / f"{rank}.json").write_text(
        json.dumps({work.__name__: work(folder) for work in (choosing, failing, uncached, apart, forgetful)})
    )
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What both ranks saw: the same."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(one_of_two, args=(29500 + (os.getpid() + 1) % 1000, folder), nprocs=2)
    first, second = (json.loads((folder / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    return first | {"left": [path.name for path in (folder / "cache").rglob("*state*")]}


def test_two_ranks_choose_what_one_process_does(ranks: dict[str, Any], tmp_path: Path) -> None:
    assert ranks["left"] == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "HF_DATASETS_CACHE", tmp_path)
        patch.setattr(proxy, "LEARNING_RATE", 0.05)
        patch.setattr(spice_dataset, "SAVE_SECONDS", 10.0)
        for name in OPTIONS:
            rows, gains, steps = chosen(tmp_path / "one", name)
            assert ranks["choosing"][name][0] == rows
            assert ranks["choosing"][name][1] == pytest.approx(gains, rel=1e-5)
            assert ranks["choosing"][name][2] == steps == (7 if name == "trained" else 0)


def test_a_gradient_that_is_not_finite_on_one_rank_ends_both(ranks: dict[str, Any]) -> None:
    assert ranks["failing"] == (
        "`model` must give finite gradients, got NaN or infinity in row 17: look at these rows, or load the model in "
        "bfloat16 or float32."
    )


def test_a_selection_that_one_rank_has_finished_serves_all(ranks: dict[str, Any]) -> None:
    assert ranks["forgetful"] == [True, 1]


def test_ranks_without_a_shared_cache_are_told(ranks: dict[str, Any]) -> None:
    assert ranks["uncached"] == (
        "the datasets cache must be on where several processes share the gradients, got it disabled: "
        "call `datasets.enable_caching()`."
    )
    assert ranks["apart"] == (
        "ranks must go on from one state, got windows 2, 0: let them share the datasets cache (`HF_DATASETS_CACHE`)."
    )
