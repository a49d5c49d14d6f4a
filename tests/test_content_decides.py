"""Two contents never share one answer: what a stranger found in an hour, each as a test of its kind."""

import datetime
import decimal
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import httpx2
import pyarrow as pa
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List
from hf_gip.callbacks import SelectionView
from hub_server import ALICE, Hub
from rating_model import rater
from saved_subset import hub_pool
from tiny_models import tiny_model, tiny_rows, with_lora
from tiny_trainers import word_tokenizer

import hf_gip
from hf_gip.dataset.loading import find_origins
from hf_gip.hashing import hash_folder, hash_model, hash_pool, hash_rows, hash_tokenizer, row_hashes
from hf_gip.manifest.schema import SELECTION_PATH


def rows_of(*values: Any, kind: pa.DataType | None = None) -> Dataset:
    return Dataset(pa.table({"value": pa.array(values, kind)}))  # pyright: ignore[reportArgumentType]


# --- rows ------------------------------------------------------------------------------------------------------------

ALIKE = {
    "times a nanosecond apart": (rows_of(1, kind=pa.time64("ns")), rows_of(2, kind=pa.time64("ns"))),
    "long nanoseconds": (rows_of(10**18 + 1, kind=pa.duration("ns")), rows_of(10**18 + 2, kind=pa.duration("ns"))),
    "long microseconds": (rows_of(10**17 + 1, kind=pa.duration("us")), rows_of(10**17 + 2, kind=pa.duration("us"))),
    "a decimal and its text": (rows_of(decimal.Decimal("1.5")), rows_of({"text": "1.5"})),
    "a day and its text": (rows_of(datetime.date(2020, 1, 1)), rows_of({"time": "2020-01-01"})),
    "bytes and their digest": (rows_of(b"x"), rows_of({"bytes": hashlib.sha256(b"x").hexdigest()})),
    "a nested day": (rows_of([datetime.date(2020, 1, 1)]), rows_of([{"time": "2020-01-01"}])),
    "what stands for it": (rows_of({"text": "a"}), rows_of({"struct": {"text": "a"}})),
}


@pytest.mark.parametrize("name", ALIKE)
def test_a_row_hash_tells_values_that_python_or_json_write_alike(name: str) -> None:
    one, other = ALIKE[name]
    assert list(row_hashes(one, ["value"])) != list(row_hashes(other, ["value"]))


def test_missing_times_have_hashes_and_nested_nanoseconds_are_refused() -> None:
    assert len(set(row_hashes(rows_of(None, 0, 1, kind=pa.time64("ns")), ["value"]))) == 3
    with pytest.raises(TypeError, match="nested times in nanoseconds"):
        list(row_hashes(rows_of([1], kind=pa.list_(pa.time64("ns"))), ["value"]))


@pytest.mark.parametrize("shape", [lambda label: label, List, lambda label: {"inner": label}])
def test_the_names_of_labels_count_at_any_depth(shape: Any) -> None:
    def rows(names: list[str]) -> Dataset:
        label = ClassLabel(names=names)
        value = {"inner": 0} if isinstance(shape(label), dict) else [0] if isinstance(shape(label), List) else 0
        return Dataset.from_dict({"value": [value]}, features=Features({"value": shape(label)}))

    one, other = rows(["good", "bad"]), rows(["bad", "good"])
    assert hash_rows(one) != hash_rows(other)
    assert hash_pool(one, ["value"]) != hash_pool(other, ["value"])


def test_a_source_whose_labels_mean_something_else_is_another(tmp_path: Path) -> None:
    texts = {"text": [f"row {i}" for i in range(9)], "label": [i % 2 for i in range(9)]}
    one, other = (
        Dataset.from_dict(texts).cast_column("label", ClassLabel(names=names))
        for names in (["good", "bad"], ["bad", "good"])
    )
    hf_gip.save_subset(hf_gip.gip_select(one, 3, encoder="lexical"), tmp_path / "out")
    assert hf_gip.verify(tmp_path / "out", source=one)
    assert not hf_gip.verify(tmp_path / "out", source=other)


def test_rows_without_a_group_are_not_the_group_called_none() -> None:
    pool = Dataset.from_dict({"v": torch.eye(8).tolist(), "group": ["None", None, "a", None, "None", "a", None, "a"]})
    one = hf_gip.gip_select(pool, 5, features="v", group_column="group", max_per_group={"None": 1})
    assert one["group"][:].count("None") == 1
    assert one.selection.record["limits"]["groups"]["(None)"] == one["group"][:].count(None) == 2  # type: ignore[attr-defined]
    other = hf_gip.gip_select(pool, 5, features="v", group_column="group", max_per_group={None: 1})
    assert (other["group"][:].count("None"), other["group"][:].count(None)) == (2, 1)


def test_what_is_served_counts_with_all_its_columns() -> None:
    def served(mask: list[int]) -> str:
        rows = Dataset.from_dict({"input_ids": [[1, 2, 3]], "completion_mask": [mask]})
        view = SelectionView(rows, 1)
        view.show(torch.tensor([0]))
        return view.log.expected_sha256()

    assert served([0, 0, 1]) != served([0, 1, 1])


# --- files and folders -----------------------------------------------------------------------------------------------


def test_a_folder_of_another_subset_with_the_same_times_is_read_anew(tmp_path: Path) -> None:
    for name in ("ships", "planes"):
        pool = Dataset.from_dict({"text": [f"{name} {i}" for i in range(9)]})
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        hf_gip.save_subset(hf_gip.gip_select(pool, 3, encoder="lexical"), tmp_path / "out")
        for path in (tmp_path / "out").rglob("*"):
            os.utime(path, (1e9, 1e9))
        assert all(text.startswith(name) for text in hf_gip.load_subset(tmp_path / "out")["text"][:])


def test_what_lies_behind_a_linked_folder_is_part_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.bin").write_bytes(b"1")
    (tmp_path / "model" / "1_Dense").symlink_to(tmp_path / "weights")
    (tmp_path / "model" / "around").symlink_to(tmp_path / "model")
    before = hash_folder(tmp_path / "model")
    (tmp_path / "weights" / "w.bin").write_bytes(b"2")
    assert hash_folder(tmp_path / "model") != before


def test_the_model_below_an_adapter_is_known_by_content(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    rows, options = Dataset.from_list(tiny_rows(20)), {"update_every": None, "window": None, "projection_dim": None}
    tiny_model(0).save_pretrained(tmp_path / "base")
    with_lora(AutoModelForCausalLM.from_pretrained(tmp_path / "base")).save_pretrained(tmp_path / "adapter")  # type: ignore[operator]
    picks = []
    for seed in (0, 7, 0):
        tiny_model(seed).save_pretrained(tmp_path / "base")
        subset = hf_gip.spice_select(rows, 5, model=str(tmp_path / "adapter"), **options)  # type: ignore[arg-type]
        picks.append((subset.selection.indices.tolist(), subset.selection.record["proxy"]))  # type: ignore[attr-defined]
    assert picks[0] == picks[2]
    assert picks[0][0] != picks[1][0]


# --- models and tokenizers -------------------------------------------------------------------------------------------


def test_a_model_changed_in_place_is_another() -> None:
    changes: dict[str, Any] = {
        "scale": lambda model: setattr(model.model.layers[0].self_attn, "scaling", 2.0),
        "epsilon": lambda model: setattr(model.model.norm, "variance_epsilon", 1.0),
        "activation": lambda model: setattr(model.model.layers[1].mlp, "act_fn", torch.nn.ReLU()),
        "rope": lambda model: model.model.rotary_emb.inv_freq.mul_(2),
        "nothing": lambda model: model.requires_grad_(False).train(),
    }
    found = {}
    for name, change in changes.items():
        model = tiny_model()
        change(model)
        found[name] = hash_model(model)
    assert found.pop("nothing") == hash_model(tiny_model())
    assert len({hash_model(tiny_model()), *found.values()}) == len(found) + 1


def test_a_tokenizer_that_splits_special_tokens_is_another() -> None:
    tokenizer = word_tokenizer(20)
    before, tokens = hash_tokenizer(tokenizer), tokenizer("r1<eos>r2")["input_ids"]
    tokenizer.split_special_tokens = True
    assert tokenizer("r1<eos>r2")["input_ids"] != tokens
    assert hash_tokenizer(tokenizer) != before


def test_a_judge_is_what_it_reads_when_it_is_asked(tmp_path: Path) -> None:
    model, tokenizer = rater()
    model.save_pretrained(tmp_path / "rater")
    tokenizer.save_pretrained(tmp_path / "rater")
    judge, with_tokenizer = (hf_gip.LocalModel(str(tmp_path / "rater"), tokenizer=each) for each in (None, tokenizer))
    before = repr(judge), repr(with_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["r7"]})
    assert repr(with_tokenizer) != before[1]
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    model.save_pretrained(tmp_path / "rater")
    assert repr(judge) != before[0]
    assert repr(judge) == repr(hf_gip.LocalModel(str(tmp_path / "rater")))


def tiny_encoder(seed: int, folder: Path | None = None) -> Any:
    """A sentence-transformers model of one layer, saved to `folder` if given."""
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel

    with tempfile.TemporaryDirectory() as scratch:
        torch.manual_seed(seed)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        BertModel(BertConfig(vocab_size=64, initializer_range=1.0, **sizes)).save_pretrained(scratch)
        word_tokenizer(40).save_pretrained(scratch)
        model = SentenceTransformer(scratch, device="cpu")
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
        model.save(str(folder))
    return model


def test_an_explanation_never_fills_the_cache_of_the_encoder_before(tmp_path: Path, fresh_cache: Path) -> None:
    folder, pool = (
        tmp_path / "encoder",
        Dataset.from_dict({"text": [f"r{i} r{i % 7} r{i % 3} r1 r2" for i in range(40)]}),
    )
    tiny_encoder(0, folder)
    subset = hf_gip.gip_select(pool, 5, encoder=str(folder))
    shutil.rmtree(fresh_cache)
    tiny_encoder(1, folder)
    with pytest.raises(ValueError, match="`encoder` must stay as it was"):
        subset.selection.explain(0)  # type: ignore[attr-defined]
    model = tiny_encoder(2)
    subset = hf_gip.gip_select(pool, 5, encoder=model)
    shutil.rmtree(fresh_cache)
    model.max_seq_length = 3
    with pytest.raises(ValueError, match="`encoder` must stay as it was"):
        subset.selection.explain(0)  # type: ignore[attr-defined]


def test_an_explanation_is_by_the_model_that_chose(tmp_path: Path) -> None:
    rows, model = Dataset.from_list(tiny_rows(20)), tiny_model()
    subset = hf_gip.spice_select(rows, 5, model=model, update_every=None, window=None)
    other = next(row for row in range(20) if row not in subset.selection.indices.tolist())  # type: ignore[attr-defined]
    subset.selection.explain(other)  # type: ignore[attr-defined]
    with torch.no_grad():
        model.lm_head.weight.mul_(-1)
    with pytest.raises(ValueError, match="`model` must stay as it was"):
        subset.selection.explain(other)  # type: ignore[attr-defined]


# --- privacy ---------------------------------------------------------------------------------------------------------


@pytest.mark.hub
def test_names_of_private_rows_become_public_only_when_told(
    fresh_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", ALICE)
    secret = hub_pool(repo="alice/secret")
    fresh_hub.repos["alice/secret"].private = True
    fresh_hub.create("alice/open")
    for options in ({"id_column": "text"}, {"group_column": "name", "max_per_group": 1}):
        subset = hf_gip.gip_select(secret, 4, features="vector", **options)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"is private.*without `id_column` and `group_column`"):
            hf_gip.push_to_hub(subset, "alice/open", include_rows=False)
    url = f"{fresh_hub.url}/datasets/alice/open/resolve/main/{SELECTION_PATH}"
    assert httpx2.get(url, follow_redirects=True).status_code == 404
    hf_gip.push_to_hub(hf_gip.gip_select(secret, 4, features="vector"), "alice/open", include_rows=False)
    assert httpx2.get(url, follow_redirects=True).status_code == 200


@pytest.mark.hub
def test_rows_mapped_into_the_folder_of_a_public_builder_do_not_become_its_own(
    fresh_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", ALICE)
    opened, secret = hub_pool(repo="alice/open"), hub_pool(repo="alice/secret")
    folder = Path(opened.cache_files[0]["filename"]).parent
    moved = secret.map(lambda row: {"text": row["text"].upper()}, cache_file_name=str(folder / "mine.arrow"))
    assert {"repo_id": None, "revision": None} in find_origins(moved)


@pytest.mark.hub
def test_a_private_subset_stays_private_through_a_folder(
    fresh_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", ALICE)
    hf_gip.push_to_hub(hf_gip.gip_select(hub_pool(), 4, features="vector"), "alice/kept", private=True)
    hf_gip.save_subset(hf_gip.load_subset("alice/kept"), tmp_path / "out")  # type: ignore[arg-type]
    assert hf_gip.push_to_hub(hf_gip.load_subset(tmp_path / "out"), "alice/again").private


@pytest.mark.parametrize("kind", ["hook", "pre-hook", "backward pre-hook", "forward"])
def test_a_model_that_runs_code_of_the_user_is_known_by_no_digest(kind: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    plain = hash_model(model)
    handles = []
    if kind == "forward":
        model[0].forward = lambda x: 2 * x  # pyright: ignore[reportAttributeAccessIssue]
    elif kind == "hook":
        handles.append(model[0].register_forward_hook(lambda module, inputs, output: output * 2))
    elif kind == "backward pre-hook":
        handles.append(model[0].register_full_backward_pre_hook(lambda module, gradients: (gradients[0] * 2,)))
    else:
        handles.append(model[0].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,)))
    with pytest.raises(ValueError, match="got a hook or a `forward` of your own in '0'"):
        hash_model(model)
    vars(model[0]).pop("forward", None)
    for handle in handles:
        handle.remove()
    assert hash_model(model) == plain
