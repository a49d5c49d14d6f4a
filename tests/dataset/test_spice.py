"""SPICE on a dataset: the paper's pipeline written out, caches and kills, honest records, mistakes named."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict, disable_caching, enable_caching
from oracles_pipeline import pipeline
from peft import LoraConfig, get_peft_model
from tiny_models import LORA, tiny_model, tiny_rows, with_lora
from tiny_trainers import tiny_llama, word_rows, word_tokenizer
from torch import nn
from transformers import LlamaModel

import hf_gip
from hf_gip.core.matrix import unit_rows
from hf_gip.core.spice import spice
from hf_gip.dataset import spice as spice_dataset
from hf_gip.features import proxy
from hf_gip.features.gradients import gradient_features


def pool(n: int = 50) -> Dataset:
    return Dataset.from_list([{**row, "id": number} for number, row in enumerate(tiny_rows(n))])


@pytest.mark.parametrize("update_every", [1, 3, 10, None])
@pytest.mark.parametrize(("k", "stop_ratio"), [(14, None), (14, 0.97), (None, 0.97)])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_picks_are_those_of_the_papers_pipeline_written_out(
    update_every: int | None,
    k: int | None,
    stop_ratio: float | None,
    normalize: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options: dict[str, Any] = {"window": 12, "update_every": update_every, "seed": 3}
    rules: dict[str, Any] = {"stop_ratio": stop_ratio, "alpha": 1.5, "normalize": normalize}
    monkeypatch.setattr(proxy, "LEARNING_RATE", 0.05)  # enough for another proxy to choose other rows
    model = with_lora(tiny_model())
    got = hf_gip.spice_select(pool(), k, model=model, projection_dim=None, **options, **rules)
    expected = pipeline(with_lora(tiny_model()), tiny_rows(50), k, **options, **rules)
    assert got["id"][:] == got.selection.indices.tolist() == expected
    stops = stop_ratio is not None and (
        k is None or not normalize
    )  # the few first picks at unit length overlap little
    assert (len(expected) < (k or 50)) == stops
    assert got.selection.record["proxy"]["steps"] == (len(expected) // update_every if update_every else 0)


def test_training_the_proxy_matters_and_it_is_given_back_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "LEARNING_RATE", 0.3)
    model = with_lora(tiny_model())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    trained = hf_gip.spice_select(pool(), 20, model=model, window=10, update_every=2)
    frozen = hf_gip.spice_select(pool(), 20, model=model, window=10, update_every=None)
    assert trained["id"][:2] == frozen["id"][:2]  # what was chosen before the first step
    assert trained["id"][:] != frozen["id"][:]
    assert (trained.selection.record["proxy"]["steps"], frozen.selection.record["proxy"]["steps"]) == (10, 0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())


def test_all_rows_at_once_are_those_of_the_core() -> None:
    model, rows = with_lora(tiny_model()), tiny_rows(50)
    G = gradient_features(model, rows, projection_dim=200).features
    got = hf_gip.spice_select(pool(), 15, model=model, window=None, update_every=None, projection_dim=200)
    assert got["id"][:] == spice(unit_rows(G), 15).indices.tolist()
    assert got.selection.objective == pytest.approx(spice(unit_rows(G), 15).objective)
    raw: dict[str, Any] = {"normalize": False, "alpha": 2.0, "absolute_alpha": True, "fisher": "diagonal_g4"}
    got = hf_gip.spice_select(
        pool(), 15, model=model, window=None, update_every=None, projection_dim=200, conflict_penalty=0.3, **raw
    )
    del raw["normalize"]
    assert got["id"][:] == spice(G, 15, conflict_penalty=0.3, **raw).indices.tolist()


def test_a_model_without_lora_gets_the_papers_layers_and_loses_them_again() -> None:
    model = tiny_model()
    names = [name for name, _ in model.named_parameters()]
    one = hf_gip.spice_select(pool(), 10, model=model, seed=1)
    assert [name for name, _ in model.named_parameters()] == names
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert one.selection.record["features"]["target_modules"] == "lora"
    assert len(set(one["id"][:])) == 10


def saved_proxy(folder: Path, rows: int) -> Path:
    tokenizer = word_tokenizer(rows)
    tiny_llama(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_texts_go_through_the_tokenizer_beside_a_local_model(tmp_path: Path) -> None:
    folder, rows = saved_proxy(tmp_path / "proxy", 40), word_rows(40)
    by_path = hf_gip.spice_select(rows, 8, model=str(folder), id_column="uid")
    live = hf_gip.spice_select(rows, 8, model=tiny_llama(163), tokenizer=word_tokenizer(40))
    assert by_path["text"][:] == live["text"][:]
    assert by_path.selection.record["features"]["columns"] == ["text"]
    assert by_path.selection.record["source"]["id_column"] == "uid"


def test_a_tokenizer_without_a_pad_token_serves_as_well() -> None:
    bare = word_tokenizer(30)
    bare.pad_token = None
    rows = word_rows(30)
    with_pad, without = (
        hf_gip.spice_select(rows, 6, model=tiny_llama(153), tokenizer=one)["text"][:]
        for one in (word_tokenizer(30), bare)
    )
    assert with_pad == without


def test_rows_without_labels_are_left_out_and_long_ones_cut_and_counted() -> None:
    rows = tiny_rows(40)
    for row in (3, 8):
        rows[row]["labels"] = [-100] * len(rows[row]["labels"])
    rows[5] = {"input_ids": [1, 2] * 20, "labels": [1, 2] * 20}
    rows[6] = {"input_ids": [1, 2] * 20, "labels": [-100] * 38 + [1, 2]}  # labeled beyond the context only
    subset = hf_gip.spice_select(Dataset.from_list(rows), 37, model=tiny_model())
    assert sorted(subset.selection.indices.tolist()) == [row for row in range(40) if row not in (3, 6, 8)]
    assert subset.selection.record["rows"] == {"left_out": 3, "truncated": 1}


def test_the_record_compares_with_chance_and_with_no_penalty(caplog: pytest.LogCaptureFixture) -> None:
    model = with_lora(tiny_model())
    options: dict[str, Any] = {"window": 25, "update_every": 15, "normalize": False, "alpha": 1.0}
    subset = hf_gip.spice_select(pool(), 15, model=model, stop_ratio=0.8, conflict_penalty=0.5, **options)
    found = subset.selection.record["diagnostics"]
    assert found["windows"] == 2
    assert found["log_det"]["chosen"] == pytest.approx(subset.selection.objective)
    assert found["log_det"]["chosen"] > max(found["log_det"]["random"])
    assert found["conflict"]["chosen"] == pytest.approx(float(subset.selection.curves["conflict"].mean()))
    assert found["conflict"]["chosen"] <= found["conflict"]["without_penalty"]
    assert 0 < found["curvature"]["mean"] <= found["curvature"]["max"] <= 1
    assert 0 < found["greedy_guarantee"] <= found["log_det"]["chosen"] / found["log_det"]["without_penalty"]
    assert "`greedy_guarantee` holds for any." in found["notes"][0]
    assert (found["fisher_norm"] >= 1) == (len(found["notes"]) == 2)
    assert subset.selection.record["stopped_early"]
    assert len(subset) < 15
    assert f"`stop_ratio` ended windows before `k`: {len(subset)} of 15 rows chosen" in caplog.text
    assert set(subset.selection.curves) == {"conflict", "overlap"}


def test_a_second_call_is_a_cache_hit_and_frozen_gradients_serve_any_k(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = {"model": with_lora(tiny_model()), "update_every": None}
    first = hf_gip.spice_select(pool(), 10, **frozen)
    trained = hf_gip.spice_select(pool(), 10, model=frozen["model"])
    monkeypatch.setattr(
        "hf_gip.features.per_example_gradients.PerExampleGradients.compute", lambda *_: pytest.fail("read again")
    )
    again = hf_gip.spice_select(pool(), 10, **frozen)
    assert again._fingerprint == first._fingerprint
    assert again.selection.record == first.selection.record
    assert torch.equal(again.selection.gains, first.selection.gains)
    assert hf_gip.spice_select(pool(), 10, model=frozen["model"])["id"][:] == trained["id"][:]
    assert len(hf_gip.spice_select(pool(), 12, conflict_penalty=0.3, **frozen)) == 12
    with pytest.raises(pytest.fail.Exception, match="read again"):
        hf_gip.spice_select(pool(), 11, model=frozen["model"])


@pytest.mark.parametrize("update_every", [4, None])
def test_without_the_cache_nothing_is_kept(fresh_cache: Path, update_every: int | None) -> None:
    disable_caching()
    try:
        hf_gip.spice_select(pool(), 5, model=tiny_model(), update_every=update_every)
    finally:
        enable_caching()
    assert not list(fresh_cache.rglob("*.safetensors"))


RUN = """
import sys, time
sys.path.insert(0, {tests!r})
import datasets
datasets.config.HF_DATASETS_CACHE = __import__("pathlib").Path({cache!r})
from tiny_models import tiny_model, tiny_rows
import hf_gip
from hf_gip.dataset import spice as spice_dataset
from hf_gip.features import proxy
spice_dataset.SAVE_SECONDS, proxy.LEARNING_RATE = 0.0, 0.05
choose = spice_dataset.WindowedRun.choose
def slowly(self, *arguments):
    time.sleep(0.2)
    print("window", flush=True)
    return choose(self, *arguments)
spice_dataset.WindowedRun.choose = slowly
pool = datasets.Dataset.from_list(tiny_rows(120))
subset = hf_gip.spice_select(pool, 48, model=tiny_model(), window=10, update_every=3)
print(subset.selection.indices.tolist(), subset.selection.gains.tolist())
"""


def test_a_killed_run_goes_on_with_the_same_picks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start() -> subprocess.Popen[str]:
        script = RUN.format(tests=str(Path(__file__).parents[1]), cache=str(tmp_path / "killed"))
        return subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    killed = start()
    while not (states := list((tmp_path / "killed").rglob("state.safetensors"))):
        assert killed.poll() is None
        time.sleep(0.02)
    time.sleep(0.5)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    lines = start().communicate()[0].splitlines()
    monkeypatch.setattr(proxy, "LEARNING_RATE", 0.05)
    rows = Dataset.from_list(tiny_rows(120))
    whole = hf_gip.spice_select(rows, 48, model=tiny_model(), window=10, update_every=3).selection
    assert lines[-1] == f"{whole.indices.tolist()} {whole.gains.tolist()}"
    assert 0 < len(lines[:-1]) < 12
    assert not states[0].exists()


def test_what_a_kill_left_half_written_goes_with_the_state(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "state.safetensors").write_bytes(b"whole")
    (folder / ".state.safetensors.123.part").write_bytes(b"ha")
    spice_dataset.clear_state(folder)
    assert not folder.exists()
    spice_dataset.clear_state(folder)


def test_splits_have_their_own_budgets() -> None:
    splits = DatasetDict(train=pool(30), test=pool(20))
    chosen = hf_gip.spice_select(splits, {"train": 5, "test": 3}, model=tiny_model())
    assert {name: len(rows) for name, rows in chosen.items()} == {"train": 5, "test": 3}


class EightBit(nn.Linear):
    """A linear layer that keeps its weight in eight bits, as quantized models do."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.scale = linear.weight.abs().max().item() / 127
        self.weight = nn.Parameter((linear.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input @ (self.weight.to(input.dtype) * self.scale).T


def quantized() -> nn.Module:
    model = tiny_model()
    for block in model.model.layers:
        block.mlp.down_proj = EightBit(block.mlp.down_proj)
    return model


def test_lora_on_a_quantized_model_works_and_its_own_weights_are_refused() -> None:
    assert len(hf_gip.spice_select(pool(), 7, model=get_peft_model(quantized(), LoraConfig(**LORA)))) == 7
    message = (
        "`target_modules` must name layers with floating-point weights, got model.layers.0.mlp.down_proj quantized to "
        "torch.int8: take the gradients of a LoRA adapter on top of it."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hf_gip.spice_select(pool(), 7, model=quantized(), target_modules="*.down_proj")


def broken() -> nn.Module:
    model = tiny_model()
    with torch.no_grad():
        model.get_input_embeddings().weight[47] = torch.inf
    return model


def clean(n: int) -> list[dict[str, list[int]]]:
    return [{name: [min(token, 46) for token in tokens] for name, tokens in row.items()} for row in tiny_rows(n)]


@pytest.mark.parametrize("update_every", [10, None])
def test_a_row_whose_gradient_is_not_finite_is_named(update_every: int | None) -> None:
    rows = clean(30)
    rows[17] = {"input_ids": [1, 2, 47], "labels": [1, 2, 47]}
    message = (
        "`model` must give finite gradients, got NaN or infinity in row 17: look at these rows, or load the model in "
        "bfloat16 or float32."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hf_gip.spice_select(Dataset.from_list(rows), 5, model=broken(), update_every=update_every)


def masked() -> Dataset:
    return Dataset.from_list([{**row, "labels": [-100] * len(row["labels"])} for row in tiny_rows(6)])


@pytest.mark.parametrize(
    ("rows", "k", "options", "message"),
    [
        (
            pool,
            3,
            {"model": lambda: LlamaModel(tiny_model().config)},
            "`model` must be a causal language model with an output layer, got LlamaModel: load it with "
            "`AutoModelForCausalLM`.",
        ),
        (masked, 3, {}, "`k` must be at most the number of rows with a labeled token (0 of 6), got 3."),
        (
            lambda: word_rows(9),
            3,
            {},
            "`tokenizer` must be given for rows of text where the model brings none, got None: pass the model's own, "
            "or rows with `input_ids`.",
        ),
        (
            pool,
            3,
            {"columns": ["text"]},
            "`columns` names texts and has no use beside `input_ids`: leave one out.",
        ),
        (
            pool,
            3,
            {"model": lambda: "nobody/has-this"},
            "`model` must be a Hub id, a local folder or a torch module, got 'nobody/has-this', which could not be "
            "opened (OSError): check the name and the connection.",
        ),
        (pool, 51, {}, "`k` must be a whole number between 1 and the number of rows (50), got 51."),
        (
            pool,
            3,
            {"update_every": 0},
            "`update_every` must be a whole number of at least 1 or None, got 0.",
        ),
        (
            pool,
            3,
            {"window": None},
            "`window` must be a number of rows where the proxy is trained between windows, got None: add "
            "`update_every=None` to choose from all rows at once.",
        ),
        (
            pool,
            3,
            {"target_modules": "hidden"},
            "`target_modules='hidden'` are no weights to train: add `update_every=None`.",
        ),
        (pool, 3, {"max_length": 0}, "`max_length` must be a whole number of at least 1, got 0."),
        (pool, 3, {"alpha": -1.0}, "`alpha` must be a positive number, got -1.0."),
        (pool, 3, {"alpha": "1"}, "`alpha` must be a positive number, got '1'."),
        (pool, 3, {"conflict_penalty": None}, "`conflict_penalty` must be zero or a positive number, got None."),
        (pool, 3, {"stop_ratio": "half"}, "`stop_ratio` must be between 0 and 1, or None never to stop, got 'half'."),
        (
            pool,
            3,
            {"window": 10.5},
            "`window` must be a whole number of rows, or None for the whole pool, got 10.5.",
        ),
        (pool, 3, {"max_length": None}, "`max_length` must be a whole number of at least 1, got None."),
        (pool, 3, {"batch_size": 2.0}, "`batch_size` must be a whole number of at least 1, got 2.0."),
        (
            pool,
            3,
            {"projection_dim": "10"},
            "`projection_dim` must be a whole number of at least 1 or None, got '10'.",
        ),
        (pool, 3, {"seed": None}, "`seed` must be a whole number of at most 18 digits, got None."),
        (pool, 3, {"seed": 2**70}, f"`seed` must be a whole number of at most 18 digits, got {2**70}."),
        (
            lambda: Dataset.from_list([{"input_ids": [1, 99, 2]}] * 4),
            2,
            {},
            "`rows` must hold tokens of the model's own vocabulary, 0 to 47, got 99 in the input_ids of row {row}: "
            "use the model's tokenizer.",
        ),
        (
            lambda: Dataset.from_dict({"input_ids": ["abc"] * 4}),
            2,
            {},
            "`input_ids` must be a column of lists of tokens, got one of string: rows of text belong in a column of "
            "another name.",
        ),
    ],
)
def test_bad_input_is_one_sentence(rows: Any, k: int, options: dict[str, Any], message: str) -> None:
    model = options.get("model", tiny_model)()
    whole = re.escape(message).replace(re.escape("{row}"), "[0-3]")  # the shuffle decides which is read first
    with pytest.raises(ValueError, match=f"^{whole}$"):
        hf_gip.spice_select(rows(), k, **(options | {"model": model}))


def test_a_model_of_the_wrong_kind_is_a_type_error() -> None:
    message = "`target_modules` must be lora, last_layer, hidden or a pattern of layer names, got ['lora']."
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        hf_gip.spice_select(pool(), 3, model=tiny_model(), target_modules=["lora"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^`model` must be a Hub id, a local folder or a torch module, got int\.$"):
        hf_gip.spice_select(pool(), 3, model=7)
