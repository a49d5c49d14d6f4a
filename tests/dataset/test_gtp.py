"""GTP on a dataset: gradients along a run against LESS's recipe written out, checkpoints, caches, kills, mistakes."""

import json
import logging
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, disable_caching, enable_caching
from oracles_gtp import fitted
from oracles_trajectory import trajectory, unit
from peft import PeftModel
from tiny_models import tiny_model, tiny_rows, with_lora
from tiny_trainers import exactly, tiny_llama, word_rows, word_tokenizer
from trainer_runs import trained, unloaded  # noqa: F401 — a fixture
from transformers import LlamaForCausalLM

import hf_gip
from hf_gip.core.baselines import less
from hf_gip.core.gtp import gtp
from hf_gip.features import gradient_store as store
from hf_gip.features import progress, proxy, warmup
from hf_gip.features.gradients import gradient_features

RUN: dict[str, Any] = {"warmup_fraction": 0.8, "warmup_epochs": 3, "warmup_learning_rate": 0.02, "seed": 3}


def pool(n: int = 50) -> Dataset:
    return Dataset.from_list([{**row, "id": number} for number, row in enumerate(tiny_rows(n))])


def goal(n: int = 7) -> Dataset:
    return Dataset.from_list(tiny_rows(n, seed=9))


def written_out() -> list[Any]:
    plan = (RUN["warmup_fraction"], RUN["warmup_epochs"], RUN["warmup_learning_rate"], RUN["seed"])
    return trajectory(with_lora(tiny_model()), tiny_rows(50), tiny_rows(7, seed=9), *plan)


@pytest.mark.parametrize(("adam", "normalize"), [(True, True), (False, True), (False, False)])
def test_gradients_along_the_run_are_those_of_less_written_out(adam: bool, normalize: bool) -> None:
    model = with_lora(tiny_model())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    options: dict[str, Any] = {"projection_dim": None, "adam": adam, "normalize": normalize, **RUN}
    found = hf_gip.gradient_trajectories(pool(), model=model, target=goal(), **options)
    assert found.targets is not None
    expected = written_out()
    assert found.learning_rates == pytest.approx([point.rate for point in expected])
    for point, features, target in zip(expected, found.features, found.targets, strict=True):
        scaled = unit if normalize else torch.Tensor.clone
        assert torch.allclose(features.load(), scaled(point.rows if adam else point.plain), atol=2e-4)
        assert torch.allclose(target, scaled(point.targets), atol=2e-4)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    scores = sum(
        rate * (unit(features.load()) @ unit(target).mean(0))
        for rate, features, target in zip(found.learning_rates, found.features, found.targets, strict=True)
    )
    got = less(found.features, found.targets, 9, learning_rates=found.learning_rates, subtasks=found.subtasks)
    assert got.indices.tolist() == torch.as_tensor(scores).argsort(descending=True)[:9].tolist()


def test_components_of_the_snapshots_follow_the_run() -> None:
    options = {"subspace": "snapshots", "projection_dim": 2, "adam": False, **RUN}
    found = hf_gip.gradient_trajectories(pool(), model=with_lora(tiny_model()), **options)
    bases = []
    for point, features in zip(written_out(), found.features, strict=True):
        moved = torch.stack(point.snapshots)
        basis = torch.linalg.svd((moved - moved.mean(0)).double(), full_matrices=False)[2][:2].T
        expected = unit(point.plain).double() @ basis
        assert features.d == min(2, len(moved) - 1)
        got = features.load().double()
        assert torch.allclose(got @ got.T, expected @ expected.T, atol=1e-3)  # the same but for a rotation
        bases.append(basis)
    assert float((bases[0].T @ bases[-1]).norm()) < 0.9 * 2**0.5  # they differ along the run


def test_chosen_rows_and_weights_are_those_of_the_core() -> None:
    model = with_lora(tiny_model())
    options = {"model": model, "target": goal(), "adam": False, "projection_dim": 300, **RUN}
    subset = hf_gip.gtp_select(pool(), 8, id_column="id", **options)
    found = hf_gip.gradient_trajectories(pool(), **options)
    got = subset.selection
    assert subset["id"][:] == got.indices.tolist()
    direct = gtp(found.features, found.target_means(), 8, learning_rates=found.learning_rates)
    assert got.indices.tolist() == direct.indices.tolist()
    assert torch.equal(got.weights, direct.weights)
    scaled = [
        rate**0.5 * features.load().double()
        for rate, features in zip(found.learning_rates, found.features, strict=True)
    ]
    A = torch.cat(scaled, 1).numpy()
    goals = zip(found.learning_rates, found.target_means() or [], strict=True)
    b = torch.cat([rate**0.5 * each for rate, each in goals], 1)[0].numpy()
    assert got.record["residual"] == pytest.approx(fitted(A, b, got.indices.tolist())[1] / np.linalg.norm(b))
    assert [point["name"] for point in got.record["checkpoints"]] == ["epoch 1", "epoch 2", "epoch 3"]
    assert got.record["source"]["id_column"] == "id"


def test_without_a_target_the_pool_is_followed_and_subtasks_are_matched_together() -> None:
    options = {"model": with_lora(tiny_model()), "adam": False, **RUN}
    own = hf_gip.gtp_select(pool(), 12, **options).selection
    assert own.record["target"] == []
    assert own.captured is not None
    assert own.captured > 0.5
    tasks = {"one": goal(4), "two": goal(5).select([4])}
    both = hf_gip.gtp_select(pool(), 12, target=tasks, **options).selection
    assert [task["rows"] for task in both.record["target"]] == [4, 1]
    assert both.weights is not None
    assert torch.allclose(both.curves["weight_0"] + both.curves["weight_1"], both.weights)


@pytest.mark.parametrize("subspace", ["random", "snapshots"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("of_pool", [True, False])
def test_the_residual_of_whole_gradients_is_estimated_beside_that_of_the_projection(
    subspace: Any, normalize: bool, of_pool: bool
) -> None:
    options: dict[str, Any] = {"model": with_lora(tiny_model()), "normalize": normalize, **RUN}
    options["target"] = None if of_pool else {"one": goal(4), "two": goal(5)}
    chosen = hf_gip.gtp_select(pool(), 8, projection_dim=40, subspace=subspace, **options).selection
    whole = hf_gip.gradient_trajectories(pool(), projection_dim=None, adam=False, **options)
    rates = whole.learning_rates
    A = torch.cat([rate**0.5 * each.load().double() for rate, each in zip(rates, whole.features, strict=True)], 1)
    means = whole.target_means() or [each.load().double().mean(0)[None] for each in whole.features]
    b = torch.cat([rate**0.5 * each for rate, each in zip(rates, means, strict=True)], 1)
    weights = [chosen.weights] if of_pool else [chosen.curves["weight_0"], chosen.curves["weight_1"]]
    exact = float((b - torch.stack(weights) @ A[chosen.indices]).norm() / b.norm())
    assert chosen.record["whole_residual"] == pytest.approx(exact, rel=0.15)  # unit by the sketch's own length
    assert chosen.record["whole_residual"] > 1.2 * chosen.record["residual"]
    plain = hf_gip.gtp_select(pool(), 8, projection_dim=None, **options).selection.record
    assert plain["whole_residual"] == plain["residual"]


def test_raw_gradients_are_chosen_reproduced_and_recorded(tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": with_lora(tiny_model()), "target": goal(), **RUN}
    raw = hf_gip.gtp_select(pool(), 8, normalize=False, **options)
    assert raw.selection.record["features"]["normalize"] is False
    found = hf_gip.gradient_trajectories(pool(), normalize=False, adam=False, **options)
    direct = gtp(found.features, found.target_means(), 8, learning_rates=found.learning_rates)
    assert torch.equal(raw.selection.weights, direct.weights)
    hf_gip.save_subset(raw, tmp_path / "raw")
    inputs = {"model": options["model"], "target": goal()}
    assert hf_gip.reproduce(tmp_path / "raw", source=pool(), **inputs).verdict == "same picks"


def test_texts_and_a_local_folder_do_as_well(tmp_path: Path) -> None:
    tokenizer, rows = word_tokenizer(40), word_rows(40)
    tiny_llama(len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    options = {"target": ["w1 w2 w3", "w5 w9 w1"], "warmup_fraction": 0.5, "warmup_learning_rate": 0.01}
    by_path = hf_gip.gtp_select(rows, 6, model=str(tmp_path / "model"), **options)
    live = hf_gip.gtp_select(rows, 6, model=tiny_llama(163), tokenizer=tokenizer, **options)
    assert by_path["text"][:] == live["text"][:]
    assert by_path.selection.record["target"][0]["columns"] == ["text"]


def test_rows_without_labels_are_left_out_and_their_places_kept() -> None:
    rows = tiny_rows(30)
    for row in (0, 8):
        rows[row]["labels"] = [-100] * len(rows[row]["labels"])
    subset = hf_gip.gtp_select(Dataset.from_list(rows), 28, model=tiny_model(), **RUN)
    assert sorted(subset.selection.indices.tolist()) == [row for row in range(30) if row not in (0, 8)]
    assert subset.selection.record["rows"] == {"left_out": 2, "truncated": 0}


def test_another_k_reads_no_gradient_and_the_same_call_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"model": with_lora(tiny_model()), "target": goal(), **RUN}
    first = hf_gip.gtp_select(pool(), 6, **options)
    monkeypatch.setattr(
        "hf_gip.features.per_example_gradients.PerExampleGradients.compute", lambda *_: pytest.fail("read again")
    )
    monkeypatch.setattr("hf_gip.features.proxy.ProxyTrainer.step", lambda *_: pytest.fail("trained again"))
    assert len(hf_gip.gtp_select(pool(), 9, **options)) == 9
    monkeypatch.setattr("hf_gip.dataset.gradient_trajectories._gather", lambda *_: pytest.fail("gathered again"))
    again = hf_gip.gtp_select(pool(), 6, **options)
    assert again._fingerprint == first._fingerprint
    assert torch.equal(again.selection.weights, first.selection.weights)
    assert again.selection.record == first.selection.record


def test_without_the_cache_nothing_is_kept(fresh_cache: Path) -> None:
    disable_caching()
    try:
        found = hf_gip.gradient_trajectories(pool(), model=tiny_model(), **RUN)
        own = [each.rows(torch.tensor([7])) for each in found.features]
        assert hf_gip.less(found.features, own, 5).indices[0] == 7
        hf_gip.gtp_select(pool(), 5, model=tiny_model(), **RUN)
    finally:
        enable_caching()
    assert not list(fresh_cache.rglob("*.safetensors"))


def test_splits_have_their_own_budgets_and_stages_tell_where_they_are(caplog: pytest.LogCaptureFixture) -> None:
    splits = DatasetDict(train=pool(30), test=pool(20))
    with caplog.at_level(logging.INFO, logger="hf_gip"):
        chosen = hf_gip.gtp_select(splits, {"train": 5, "test": 3}, model=tiny_model(), **RUN)
    assert {name: len(rows) for name, rows in chosen.items()} == {"train": 5, "test": 3}
    for number, stage in enumerate(["a warm-up run of 3 epochs", "gradients of 30 rows", "the pursuit of 5"], start=1):
        assert f"stage {number} of 3: {stage}" in caplog.text
    assert re.search(r"steps: about \d+ s", caplog.text)
    assert re.search(r"checkpoint 1 of 3 \(epoch 1\) done: about \d+ s left", caplog.text)
    assert re.search(r"pass 1 after [\d.]+ s: residual 0\.\d+", caplog.text)


class NotedBar(store.tqdm):
    """Notes its name where it is shown."""

    shown: ClassVar[list[tuple[str, int]]] = []

    def __init__(self, *, disable: bool = False, **options: Any) -> None:
        super().__init__(disable=True, **options)
        if not disable:
            self.shown.append((options["desc"], options["total"]))


def test_bars_say_whose_gradients_and_where_and_the_cost_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(store, "tqdm", NotedBar)
    monkeypatch.setattr(progress, "ANNOUNCE_SECONDS", 0.0)
    monkeypatch.setattr(NotedBar, "shown", [])
    options: dict[str, Any] = {"model": tiny_model(), "target_modules": "last_layer", "projection_dim": 20, **RUN}
    hf_gip.gtp_select(pool(), 5, target={"one": goal(3), "two": goal(4)}, batch_size=2, **options)
    expected = []
    for number in (1, 2, 3):
        named = (("the pool", 50), ("target 'one'", 3), ("target 'two'", 4))
        expected += [(f"Gradients of {name}, checkpoint {number} of 3", rows) for name, rows in named]
    assert NotedBar.shown == expected
    said = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"hf-gip: a warm-up run of 6 steps: about \d+ s; if stopped, it goes on there", said[0])
    told = (
        r"hf-gip: gradients of 50 rows in 25 batches at 3 checkpoints: 20 dims, 0 MB on disk; if stopped, it goes on "
    )
    assert re.fullmatch(told + r"there, about \d+ s \(\d+\.\d rows/s\)", said[1])
    assert all(line.startswith("hf-gip: the pursuit of 5 rows: residual ") for line in said[2:])
    assert len(said) == 3
    NotedBar.shown.clear()
    hf_gip.gtp_select(pool(), 6, target=goal(3), batch_size=2, **options)
    assert NotedBar.shown == []
    hf_gip.gtp_select(pool(), 6, target=goal(4), batch_size=2, **options)
    assert NotedBar.shown == []
    hf_gip.gtp_select(pool(), 6, target=goal(5), batch_size=2, **options)
    assert NotedBar.shown == [(f"Gradients of the target, checkpoint {number} of 3", 5) for number in (1, 2, 3)]


SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
import datasets, torch
torch.set_num_threads(1)
datasets.config.HF_DATASETS_CACHE = __import__("pathlib").Path({cache!r})
from tiny_models import tiny_model, tiny_rows, with_lora
import hf_gip
from hf_gip.core import gtp
from hf_gip.features import gradient_store as store, per_example_gradients as gradients, proxy, warmup
warmup.SAVE_SECONDS, store.SHARD_ROWS, warmup.STEP_ROWS = 0.0, 10, 10
def told(name, call):
    def slowly(*arguments, **options):
        print(name, flush=True)
        time.sleep(0.05)
        return call(*arguments, **options)
    return slowly
proxy.ProxyTrainer.step = told("step", proxy.ProxyTrainer.step)
gradients.PerExampleGradients.compute = told("read", gradients.PerExampleGradients.compute)
gtp.compressive_pursuit = told("pursue", gtp.compressive_pursuit)
rows, goal = (datasets.Dataset.from_list(each) for each in (tiny_rows(50), tiny_rows(7, seed=9)))
subset = hf_gip.gtp_select(rows, 8, model=with_lora(tiny_model()), target=goal, subspace={subspace!r}, **{run!r})
print(subset.selection.indices.tolist())
"""


def killed_at(script: str, word: str | None, times: int = 1) -> list[str]:
    """What a process prints until it has said `word` so many times and is killed, or has ended."""
    said: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.strip())
            if said.count(str(word)) == times:
                process.send_signal(signal.SIGKILL)
                break
    return said


KILLS = {"step": 6, "read": 9, "pursue": 1}


@pytest.mark.parametrize(
    ("subspace", "kills"),
    [
        ("random", {"read": 9}),
        pytest.param("random", KILLS, marks=pytest.mark.heavy),
        pytest.param("snapshots", KILLS, marks=pytest.mark.heavy),
    ],
)
def test_a_run_killed_in_its_stages_ends_with_the_same_rows(
    subspace: Any, kills: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = SCRIPT.format(
        tests=str(Path(__file__).parents[1]), cache=str(tmp_path / "killed"), subspace=subspace, run=RUN
    )
    runs = [killed_at(script, word, times) for word, times in kills.items()]
    assert [said[-1] for said in runs] == list(kills)
    runs.append(killed_at(script, None))
    monkeypatch.setattr(warmup, "STEP_ROWS", 10)
    monkeypatch.setattr(store, "SHARD_ROWS", 10)
    whole = hf_gip.gtp_select(
        Dataset.from_list(tiny_rows(50)), 8, model=with_lora(tiny_model()), target=goal(), subspace=subspace, **RUN
    )
    assert runs[-1][-1] == str(whole.selection.indices.tolist())
    assert "step" not in runs[-1]
    assert runs[-1].count("pursue") == 1
    if "pursue" in kills:
        assert "read" not in runs[-1]
    assert 12 <= sum(said.count("step") for said in runs) <= 13  # one step was in work
    batches = 3 * (5 * 2 + 1)  # shards of 10 rows in batches of 8, and the target's seven rows
    assert batches <= sum(said.count("read") for said in runs) <= batches + 2  # one shard was in work


@pytest.mark.parametrize("subspace", ["random", "snapshots"])
def test_what_is_damaged_in_the_cache_is_made_again(fresh_cache: Path, subspace: Any) -> None:
    options: dict[str, Any] = {"target": goal(), "subspace": subspace, "projection_dim": 20, **RUN}
    whole = hf_gip.gtp_select(pool(), 6, model=tiny_model(), **options).selection.indices.tolist()
    kinds = ["warmups/*/checkpoint-00002.safetensors", "gradients/*/gradients-*.safetensors", "gradients/*/*.json"]
    kinds += ["warmups/*/snapshot-*.safetensors"] if subspace == "snapshots" else []
    for kind in kinds:
        damaged = list((fresh_cache / "hf_gip").glob(kind))
        assert damaged
        for path in damaged:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        shutil.rmtree(fresh_cache / "hf_gip" / "selections")
        assert hf_gip.gtp_select(pool(), 6, model=tiny_model(), **options).selection.indices.tolist() == whole


@pytest.mark.parametrize("name", ["input_ids", "labels"])
def test_rows_whose_tokens_are_missing_are_left_out(name: str) -> None:
    rows: list[dict[str, Any]] = [dict(row) for row in tiny_rows(20)]
    rows[3][name] = None
    options: dict[str, Any] = {"model": tiny_model(), "target_modules": "last_layer", "projection_dim": 20, **RUN}
    chosen = hf_gip.gtp_select(Dataset.from_list(rows), 19, target=Dataset.from_list(rows[:5]), **options).selection
    assert sorted(chosen.indices.tolist()) == [row for row in range(20) if row != 3]
    assert chosen.record["rows"]["left_out"] == chosen.record["target"][0]["left_out"] == 1


@pytest.mark.usefixtures("unloaded")
def test_a_target_without_known_texts_is_named_before_the_model_is_loaded() -> None:
    target = Dataset.from_dict({"task": ["t"], "input": ["i"], "target": ["o"]})
    for columns in (None, ["text"]):
        message = (
            "`target` must have columns of texts in a layout that is known, or those of `columns`, got ['task', "
            "'input', 'target']: rename them, such as to 'question' and 'answer', or pass a list of texts."
        )
        with pytest.raises(ValueError, match=exactly(message)):
            hf_gip.gtp_select(word_rows(9), 3, model=tiny_model(), target=target, columns=columns)
    numbers = Dataset.from_dict({"input_ids": [1, 2]})
    with pytest.raises(ValueError, match=r"^`input_ids` must be a column of lists of tokens, got one of int32: "):
        hf_gip.gtp_select(word_rows(9), 3, model=tiny_model(), target=numbers)


def test_a_learning_rate_that_ruins_the_weights_is_named_first() -> None:
    message = (
        r"^`warmup_learning_rate` must leave gradients finite after the warm-up run, got 1e\+30 and NaN or infinity "
        r"in row .*"
        r": lower it, look at these rows, or load the model in bfloat16 or float32\.$"
    )
    with pytest.raises(ValueError, match=message):
        hf_gip.gtp_select(pool(20), 3, model=tiny_model(), **(RUN | {"warmup_learning_rate": 1e30}))


def masked() -> Dataset:
    return Dataset.from_list([{**row, "labels": [-100] * len(row["labels"])} for row in tiny_rows(6)])


@pytest.mark.parametrize(
    ("k", "options", "message"),
    [
        (51, {}, "`k` must be a whole number between 1 and the number of rows (50), got 51."),
        (3, {"target_modules": "hidden"}, '`target_modules="hidden"` are no weights to train'),
        (
            3,
            {"target_modules": "foo"},
            "`target_modules` must be lora, last_layer or a pattern of layer names, got 'foo', which no layer "
            "matches: ",
        ),
        (3, {"target_modules": ""}, "`target_modules` must be lora, last_layer or a pattern of layer names, got ''."),
        (
            3,
            {"model": "./nope"},
            "`model` must be a Hub id, a local folder or a torch module, got './nope', where there is no folder: "
            "check the path.",
        ),
        (
            3,
            {"model": __file__},
            f"`model` must be a Hub id, a local folder or a torch module, got the file {__file__!r}: name the folder "
            "that `save_pretrained` wrote.",
        ),
        (3, {"subspace": "pca"}, '`subspace` must be "random" or "snapshots", got \'pca\'.'),
        (3, {"warmup_epochs": 0}, "`warmup_epochs` must be a whole number of at least 1, got 0."),
        (3, {"projection_dim": 0}, "`projection_dim` must be a whole number of at least 1 or None, got 0."),
        (3, {"projection_dim": True}, "`projection_dim` must be a whole number of at least 1 or None, got True."),
        (3, {"seed": "a"}, "`seed` must be a whole number of at most 18 digits, got 'a'."),
        (3, {"columns": ["text"]}, "`columns` names texts and has no use beside `input_ids`: leave one out."),
        (3, {"model": tiny_model(vocab_size=30)}, "`model` must know every token of the rows, got token 47 where its"),
        (3, {"warmup_fraction": 0}, "`warmup_fraction` must be a part of the pool in (0, 1], got 0."),
        (3, {"warmup_learning_rate": 0.0}, "`warmup_learning_rate` must be a positive number, got 0.0."),
        (3, {"ridge": -1.0}, "`ridge` must be a number of at least 0, or None, got -1.0."),
        (3, {"learning_rates": [1.0]}, "`learning_rates` belong to `checkpoints`, got none"),
        (3, {"checkpoints": []}, "`checkpoints` must hold at least 1 folder(s), got 0"),
        (3, {"checkpoints": ["nowhere"]}, "`checkpoints` must be folders that a Trainer saved, got 'nowhere' without"),
        (
            3,
            {"checkpoints": ["a"], "learning_rates": [1, 2]},
            "`learning_rates` must hold one learning rate per checkpoint (1), got 2.",
        ),
        (
            3,
            {"checkpoints": ["a", "b"], "subspace": "snapshots"},
            "`checkpoints` must hold at least 3 folder(s), got 2",
        ),
        (3, {"target": []}, "`target` must hold at least one row in every subtask, got none"),
        (3, {"target": masked()}, "`target` must hold rows with a labeled token, got none of 6 in 'target'."),
    ],
)
def test_bad_input_is_one_sentence(k: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        hf_gip.gtp_select(pool(), k, **({"model": tiny_model()} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 7}, "`target` must be a Dataset, a list of texts, or a mapping from names to datasets, got int."),
        ({"checkpoints": "here"}, "`checkpoints` must be a list of a Trainer's checkpoint folders, got 'here'."),
    ],
)
def test_the_wrong_kind_is_a_type_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        hf_gip.gtp_select(pool(), 3, model=tiny_model(), **options)


def test_a_run_that_moves_nothing_is_named() -> None:
    still = {"warmup_learning_rate": 1e-30, "subspace": "snapshots"}
    with pytest.raises(ValueError, match=r"^the weights must move between snapshots, got 3 alike"):
        hf_gip.gtp_select(pool(), 3, model=with_lora(tiny_model()), **(RUN | still))


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_a_trainers_checkpoints_bring_their_weights_moments_and_rates(tmp_path: Path, lora: bool) -> None:
    rows = word_rows(24)
    folders, scaling = trained(tmp_path / "run", rows, lora=lora)
    base, tokenizer = tiny_llama(len(word_tokenizer(24))), word_tokenizer(24)
    parameters = "lora" if lora else "*.down_proj"
    options = {"checkpoints": folders, "tokenizer": tokenizer, "target_modules": parameters, "projection_dim": None}
    found = hf_gip.gradient_trajectories(rows, model=base, **options)
    assert len(found.features) == 3
    states = [json.loads((folder / "trainer_state.json").read_text()) for folder in folders]
    logged = [entry for entry in states[-1]["log_history"] if "learning_rate" in entry]
    begins = [0, *(state["global_step"] for state in states)]
    for number, rate in enumerate(found.learning_rates):
        within = [e["learning_rate"] for e in logged if begins[number] < e["step"] <= begins[number + 1]]
        assert rate == pytest.approx(sum(within) / len(within))
    if lora:
        last = PeftModel.from_pretrained(tiny_llama(len(tokenizer)), folders[-1])
    else:
        last = LlamaForCausalLM.from_pretrained(folders[-1])
    tokens = [{"input_ids": tokenizer(text)["input_ids"]} for text in rows["text"][:]]
    expected = gradient_features(
        last, tokens, target_modules=parameters, projection_dim=None, normalize=True, scaling=scaling
    )
    assert torch.allclose(found.features[-1].load(), expected.features, atol=1e-4)
    moved = hf_gip.gradient_trajectories(rows, model=base, subspace="snapshots", adam=False, **options)
    assert [features.d for features in moved.features] == [2, 2, 2]
    again = hf_gip.gradient_trajectories(rows, model=base, learning_rates=np.array(found.learning_rates), **options)
    assert again.learning_rates == pytest.approx(found.learning_rates)
    if not lora:  # LoRA layers put around whole weights
        around = options | {"target_modules": "lora", "seed": 5}
        found = hf_gip.gradient_trajectories(rows, model=base, adam=False, **around)
        with proxy.with_lora(last, "lora", 5) as ready:
            expected = gradient_features(ready, tokens, projection_dim=None, normalize=True)
        assert torch.allclose(found.features[-1].load(), expected.features, atol=1e-4)
        for option, instead in (("adam=True", "adam=False"), ('subspace="snapshots"', 'subspace="random"')):
            asked = {"adam": True} if "adam" in option else {"adam": False, "subspace": "snapshots"}
            told = (
                f"`{option}` must have checkpoints of LoRA layers, got {str(folders[0])!r} with whole weights: name "
                f'the layers to read, such as `target_modules="*.down_proj"`, or give `{instead}`.'
            )
            with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
                hf_gip.gradient_trajectories(rows, model=base, **(around | asked))
    for name in ("optimizer.pt", "trainer_state.json"):
        (folders[0] / name).unlink()
        given = options | ({"learning_rates": [1, 1, 1]} if name[0] == "o" else {})
        with pytest.raises(ValueError, match="got no " + re.escape(name)):
            hf_gip.gtp_select(rows, 3, model=base, adam=True, **given)
