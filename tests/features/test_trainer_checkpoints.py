"""A Trainer's checkpoint folders: mixed, out of order or damaged ones are refused before the model is loaded."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import hf_gip as command
from command_line import refusal
from tiny_trainers import exactly, tiny_llama, word_rows, word_tokenizer
from trainer_runs import (
    trained,
    unloaded,  # noqa: F401 — a fixture
)

import hf_gip

Runs = dict[str, list[Path]]


@pytest.fixture(scope="module")
def trained_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of LoRA layers and one of whole weights, and the base model of both."""
    folder = tmp_path_factory.mktemp("runs")
    rows = word_rows(8)
    for kind in ("lora", "full"):
        trained(folder / kind, rows, lora=kind == "lora")
    tiny_llama(len(word_tokenizer(8))).save_pretrained(folder / "base")
    word_tokenizer(8).save_pretrained(folder / "base")
    return folder


@pytest.fixture
def runs(trained_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Copies of the checkpoints, by name relative to the folder we are in; no model may be loaded."""
    shutil.copytree(trained_runs, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return {
        kind: sorted(Path(kind).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        for kind in ("lora", "full")
    }


def chosen(folders: list[Path], **options: Any) -> list[int]:
    return hf_gip.gtp_select(word_rows(8), 3, model="base", checkpoints=folders, **options).selection.indices.tolist()


@pytest.mark.filterwarnings("ignore")
def test_checkpoints_of_a_folder_of_a_model_are_read(runs: Runs) -> None:
    assert [path.name for path in runs["lora"]] == ["checkpoint-4", "checkpoint-8", "checkpoint-12"]
    assert len(chosen(runs["lora"], adam=True)) == 3
    assert len(chosen(runs["full"], target_modules="*.down_proj")) == 3


def refused(message: str, folders: list[Path], **options: Any) -> None:
    with pytest.raises(ValueError, match=exactly(message)):
        chosen(folders, **options)


@pytest.mark.usefixtures("unloaded")
def test_runs_are_not_mixed_and_stay_in_order(runs: Runs) -> None:
    lora, full = runs["lora"], runs["full"]
    for mixed in ([lora[0], full[1]], [full[1], lora[0]]):
        refused(
            "`checkpoints` must be of one run, got LoRA layers in 'lora/checkpoint-4' and whole weights in "
            "'full/checkpoint-8': leave out those of the other run.",
            mixed,
        )
    swapped = (
        "`checkpoints` must be in the order of the run, got 'checkpoint-12' (step 12) before 'checkpoint-4' (step 4): "
        "sort them by step."
    )
    for learning_rates in (None, [1e-5, 2e-5]):
        refused(swapped, [lora[2], lora[0]], learning_rates=learning_rates)
    refused(
        "`checkpoints` must name every folder once, got 'lora/checkpoint-4' twice: leave one out.",
        [lora[0], lora[1], lora[0]],
    )
    other = Path("other") / "checkpoint-4"
    shutil.copytree(lora[0], other)
    refused(
        "`checkpoints` must be of one run, got 'lora/checkpoint-4' and 'other/checkpoint-4' both at step 4: leave one "
        "out.",
        [lora[0], other],
    )
    for parameters in ("*.down_proj", "last_layer"):
        refused(
            f"`target_modules` must be \"lora\" for checkpoints of LoRA layers, got '{parameters}' with "
            "'lora/checkpoint-4': leave it out, or name checkpoints of whole weights.",
            lora,
            target_modules=parameters,
        )


@pytest.mark.filterwarnings("ignore")
def test_rates_stand_in_for_what_the_trainer_noted(runs: Runs) -> None:
    for folder, text in zip(runs["lora"], (None, "{}", '{"global_step"'), strict=True):
        path = folder / "trainer_state.json"
        path.write_text(text) if text is not None else path.unlink()
    assert len(chosen(runs["lora"], learning_rates=[2e-5, 1e-5, 1e-6])) == 3


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def written(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


LORA = {"adam": True}
SKETCH = {"target_modules": "*.down_proj"}
GRADIENTS = ", or add `adam=False` for plain gradients"
RATES = ", or pass `learning_rates`, one per checkpoint"


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize(
    ("kind", "name", "damage", "reason", "instead"),
    [
        ("full", "model.safetensors", halved, "SafetensorError: ", ""),
        ("full", "model.safetensors", written("what is this"), "SafetensorError: ", ""),
        ("lora", "adapter_model.safetensors", halved, "SafetensorError: ", ""),
        ("lora", "adapter_model.safetensors", written(""), "SafetensorError: ", ""),
        ("lora", "adapter_config.json", halved, "JSONDecodeError: ", ""),
        ("lora", "adapter_config.json", written("{}"), "KeyError: 'peft_type'", ""),
        ("lora", "optimizer.pt", halved, "", GRADIENTS),
        ("lora", "optimizer.pt", written(""), "EOFError: ", GRADIENTS),
        ("lora", "optimizer.pt", written("what is this"), "UnpicklingError: Weights only load failed", GRADIENTS),
        ("full", "trainer_state.json", halved, "JSONDecodeError: ", RATES),
        ("lora", "trainer_state.json", written("{}"), "KeyError: 'global_step'", RATES),
        ("lora", "trainer_state.json", written('{"global_step": 8}'), "KeyError: 'log_history'", RATES),
    ],
)
def test_a_damaged_file_is_named(
    kind: str, name: str, damage: Callable[[Path], object], reason: str, instead: str, runs: Runs
) -> None:
    path = runs[kind][1] / name
    damage(path)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 — matched in whole below
        chosen(runs[kind], **(LORA if kind == "lora" else SKETCH))
    begins = f"`checkpoints` must be folders with whole files, got {str(path)!r}, which cannot be read ({reason}"
    ends = f"): name a checkpoint that was saved to its end{instead}."
    assert re.fullmatch(f"{re.escape(begins)}[^\n]*{re.escape(ends)}", str(caught.value))


@pytest.mark.filterwarnings("ignore")
def test_what_a_glance_does_not_see_is_named_when_it_is_read(runs: Runs) -> None:
    path = runs["lora"][1] / "optimizer.pt"
    content = path.read_bytes()
    start = content.index(b"data.pkl") + len(b"data.pkl")  # its end, by which a glance knows it, stays as it is
    path.write_bytes(content[:start] + bytes(1_000) + content[start + 1_000 :])
    with pytest.raises(ValueError, match=r"^`checkpoints` must be folders with whole files, got '.*optimizer\.pt'"):
        chosen(runs["lora"], adam=True)


@pytest.mark.usefixtures("unloaded")
def test_missing_shards_are_counted(runs: Runs) -> None:
    folder = runs["full"][1]
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    refused(
        "`checkpoints` must be folders with whole files, got 1 of 2 shards of weights in 'full/checkpoint-8': name a "
        "checkpoint that was saved to its end.",
        runs["full"],
        target_modules="*.down_proj",
    )


@pytest.mark.usefixtures("unloaded")
def test_adapters_of_another_kind_are_refused(runs: Runs) -> None:
    path = runs["lora"][0] / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "IA3"}))
    refused(
        "`checkpoints` must hold LoRA layers or whole weights, got 'IA3' in 'lora/checkpoint-4/adapter_config.json': "
        "train with LoRA.",
        runs["lora"],
    )


@pytest.mark.filterwarnings("ignore")
def test_rates_are_given_on_the_command_line(runs: Runs, capsys: pytest.CaptureFixture[str], request: Any) -> None:
    word_rows(8).to_parquet("pool.parquet")
    words: list[object] = ["gtp", "pool.parquet", "--k", 3, "--model", "base", "--out", "out"]
    for folder in runs["lora"][:2]:
        words += ["--checkpoint", folder]
        state = json.loads((folder / "trainer_state.json").read_text())
        (folder / "trainer_state.json").write_text(json.dumps(state | {"log_history": []}))
    assert command(*words, "--learning-rates", "1e-5, 5e-6") == 0
    assert [point["rate"] for point in hf_gip.load_subset("out").selection.record["checkpoints"]] == [1e-5, 5e-6]
    request.getfixturevalue("unloaded")
    words[-5] = "fresh"
    for given, said in (
        (
            [],
            "`--learning-rates` must be given, got no learning rate logged in 'checkpoint-4' after step 0: pass one "
            "per checkpoint.",
        ),
        (["--learning-rates", "1e-5"], "`--learning-rates` must hold one learning rate per checkpoint (2), got 1."),
        (["--learning-rates", "1e-5,high"], "`--learning-rates` must be numbers such as 1e-5,5e-6, got 'high'."),
        (
            ["--target", "vec.npy"],
            "`--target` must be a dataset or a file of rows, whose gradients are taken, got the matrix 'vec.npy': "
            "give the rows.",
        ),
        (
            ["--target", "pool.parquet", "--target-split", "test"],
            "`--target-split` must be left out for 'pool.parquet', which has no splits, got 'test'.",
        ),
        (["--columns", "text,text"], "`--columns` must name every column once, got 'text' twice: leave one out."),
    ):
        assert refusal(capsys, *words, *given) == said
