"""A sentence-transformers model opened by name: its settings, its precision, its devices."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import hf_gip as command
from command_line import refusal
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tiny_encoders import WORDS, pool, tokenizer

import hf_gip
from hf_gip.features import embed as module
from hf_gip.features.embed import embed
from hf_gip.features.sentence_transformer import LoadedModel


@pytest.fixture
def fast_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_gip.features.encoders.fastest_dtype", lambda device: "bfloat16")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The precision of every model that is loaded."""
    loaded, load = [], LoadedModel.__init__

    def counted(self: LoadedModel, model: Any, settings: Any, device: Any) -> None:
        loaded.append(settings.get("dtype", "auto"))
        load(self, model, settings, device)

    monkeypatch.setattr(LoadedModel, "__init__", counted)
    return loaded


def unit(vectors: Any) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.as_tensor(np.asarray(vectors)).float(), dim=1)


SETTINGS = {
    "truncate_dim": {"truncate_dim": 4},
    "max_seq_length": {"max_seq_length": 3},
    "prompt": {"prompt": "kappa "},
    "prompt_name": {"prompt_name": "ask"},
    "dtype": {"dtype": "bfloat16"},
}


@pytest.fixture
def prompted(model_folder: Path, tmp_path: Path) -> str:
    model = SentenceTransformer(str(model_folder), device="cpu")
    model.prompts["ask"] = "theta kappa "
    model.save(str(tmp_path / "prompted"))
    return str(tmp_path / "prompted")


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_does_what_the_library_does_with_it_and_is_recorded(name: str, prompted: str) -> None:
    settings, rows = SETTINGS[name], pool(60)
    plain, features = embed(rows, prompted), embed(rows, prompted, encoder_kwargs=settings)
    model = SentenceTransformer(prompted, device="cpu", truncate_dim=settings.get("truncate_dim"))
    model.max_seq_length = settings.get("max_seq_length", model.max_seq_length)
    if name == "dtype":
        model = model.to(torch.bfloat16)
    prompts = {key: value for key, value in settings.items() if key.startswith("prompt")}
    expected = unit(model.encode(rows["text"][:], **prompts))
    assert torch.allclose(features.matrix, expected, atol=2e-2 if name == "dtype" else 1e-5)
    assert features.matrix.shape != plain.matrix.shape or not torch.equal(features.matrix, plain.matrix)
    recorded = {
        **features.recipe.get("encoder_kwargs", {}),
        **{k: v for k, v in features.recipe.items() if k == "dtype"},
    }
    assert recorded == settings
    assert torch.equal(embed(rows, prompted).matrix, plain.matrix)


@pytest.mark.usefixtures("fast_in_bfloat16")
def test_half_precision_is_used_where_its_vectors_agree_and_compared_once(prompted: str, loads: list[Any]) -> None:
    rows = pool(200)
    features = embed(rows, prompted)
    assert features.recipe["dtype"] == "bfloat16"
    assert loads == ["auto", "bfloat16", "bfloat16"]  # compared, then used
    exact = embed(rows, prompted, encoder_kwargs={"dtype": "auto"})
    assert "dtype" not in exact.recipe
    assert float((features.matrix * exact.matrix).sum(1).min()) > 0.999
    assert not torch.equal(features.matrix, exact.matrix)
    del loads[:]
    again = embed(rows, prompted)
    assert torch.equal(again.matrix, features.matrix)
    assert not loads


@pytest.mark.usefixtures("fast_in_bfloat16")
def test_half_precision_is_left_where_it_changes_the_vectors(prompted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGREE", 1.0)  # the tiny model is never that far off
    with pytest.warns(UserWarning, match=r"answers otherwise in bfloat16: cosine"):
        features = embed(pool(200), prompted)
    assert "dtype" not in features.recipe
    assert torch.equal(features.matrix, embed(pool(200), prompted, encoder_kwargs={"dtype": "auto"}).matrix)


def test_numbers_beyond_the_half_precision_are_no_vectors(
    prompted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SentenceTransformer(prompted, device="cpu")
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if name.endswith("output.LayerNorm.weight"):
                weights *= 1e6  # float16 ends at 65,504
    model.save(str(tmp_path / "large"))
    monkeypatch.setattr("hf_gip.features.encoders.fastest_dtype", lambda device: "float16")
    with pytest.warns(UserWarning, match="answers otherwise in float16: cosine 0"):
        features = embed(pool(60), str(tmp_path / "large"))
    assert torch.allclose(features.matrix, unit(model.encode(pool(60)["text"][:])), atol=1e-5)


@pytest.mark.usefixtures("fast_in_bfloat16")
def test_a_static_model_keeps_its_precision_and_gets_large_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SentenceTransformer(
        modules=[StaticEmbedding(tokenizer().backend_tokenizer, embedding_dim=4)], device="cpu"
    )
    model.save(str(tmp_path / "static"))
    batches, encode = [], SentenceTransformer.encode
    monkeypatch.setattr(
        SentenceTransformer, "encode", lambda self, texts, **kw: batches.append(kw) or encode(self, texts, **kw)
    )
    features = embed(pool(2_000), str(tmp_path / "static"))
    assert "dtype" not in features.recipe
    assert max(kw["batch_size"] for kw in batches) == 512
    assert torch.allclose(features.matrix, unit(encode(model, pool(2_000)["text"][:])), atol=1e-5)


def test_a_batch_holds_so_many_tokens(prompted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_gip.features.sentence_transformer.BATCH_TOKENS", 256)
    sizes, encode = [], SentenceTransformer.encode
    monkeypatch.setattr(
        SentenceTransformer,
        "encode",
        lambda self, texts, **kw: sizes.append((max(map(len, texts)), kw["batch_size"])) or encode(self, texts, **kw),
    )
    long = [" ".join([WORDS[i % 10]] * 60) for i in range(8)]
    embed(Dataset.from_dict({"text": [f"{i} alpha" for i in range(100)] + long}), prompted)
    rows = {length > 100: size for length, size in sizes}
    assert rows[True] == 256 // 64  # the model's own limit
    assert rows[False] > 4 * rows[True]


@pytest.mark.usefixtures("fast_in_bfloat16")
def test_a_subset_chosen_in_half_precision_is_chosen_again_in_it(
    prompted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pool(120)
    subset = hf_gip.gip_select(rows, 12, encoder=prompted, encoder_kwargs={"truncate_dim": 6})
    manifest = hf_gip.save_subset(subset, tmp_path / "subset")
    assert manifest.recipe["features"]["dtype"] == "bfloat16"
    assert manifest.recipe["features"]["encoder_kwargs"] == {"truncate_dim": 6}
    monkeypatch.setattr("hf_gip.features.encoders.fastest_dtype", lambda device: "auto")  # another machine
    result = hf_gip.reproduce(tmp_path / "subset", source=rows, encoder=prompted)
    assert result.verdict == "same picks"
    assert not [part for part in result.not_covered if "features" in part]


@pytest.mark.usefixtures("fast_in_bfloat16")
def test_a_target_is_read_as_the_pool_is(prompted: str) -> None:
    rows = pool(120)
    subset = hf_gip.gip_select(rows, 5, encoder=prompted, target=rows["text"][:3])
    assert subset.selection.record["features"]["dtype"] == "bfloat16"
    half = embed(Dataset.from_dict({"text": rows["text"][:3]}), prompted, encoder_kwargs={"dtype": "bfloat16"}).matrix
    again = hf_gip.gip_select(rows, 5, features=embed(rows, prompted).matrix, target=half)
    assert again.selection.indices.tolist() == subset.selection.indices.tolist()


@pytest.mark.heavy
def test_two_devices_give_the_vectors_of_one(prompted: str) -> None:
    rows = pool(300)
    both = embed(rows, prompted, device=["cpu", "cpu"])
    assert torch.allclose(both.matrix, embed(rows, prompted, encoder_kwargs={"dtype": "float32"}).matrix, atol=1e-5)


BAD = [
    ({"dtyp": "x"}, ValueError, "`encoder_kwargs` may hold backend, dtype, file_name, .*, got 'dtyp': leave it out."),
    ({"dtype": "int8"}, ValueError, "must be .*\"float16\", got 'int8'."),
    ({"backend": "jax"}, ValueError, "must be .*\"openvino\", got 'jax'."),
    ({"truncate_dim": 0}, ValueError, "must be a whole number of at least 1, got 0"),
    ({"prompt": ""}, TypeError, "must be a text, got ''."),
    ({"trust_remote_code": True}, ValueError, "got 'trust_remote_code': leave it out."),
    ({"backend": "onnx", "dtype": "float16"}, ValueError, "is for the torch backend"),
    ({"prompt": "a", "prompt_name": "b"}, ValueError, "must not hold both `prompt` and `prompt_name`"),
    ("bfloat16", TypeError, "must be a dictionary such as"),
]


@pytest.mark.parametrize(("settings", "error", "sentence"), BAD)
def test_a_wrong_setting_is_refused_before_anything_is_read(settings: Any, error: type, sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        hf_gip.gip_select(pool(20), 2, encoder="no/such-model", encoder_kwargs=settings)


def test_settings_are_of_a_model_opened_by_name() -> None:
    with pytest.raises(
        ValueError, match="`encoder_kwargs` are for sentence-transformers models that are opened by name"
    ):
        embed(pool(20), "lexical", encoder_kwargs={"truncate_dim": 3})


def test_the_command_line_takes_settings_as_json(
    prompted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool(60).to_parquet(str(tmp_path / "pool.parquet"))
    words = ["select", tmp_path / "pool.parquet", "--k", 5, "--encoder", prompted, "--encoder-kwargs"]
    assert command(*words, '{"truncate_dim": 4}', "--out", tmp_path / "out") == 0
    assert '"truncate_dim": 4' in (tmp_path / "out" / "gip" / "manifest.json").read_text()
    said = refusal(capsys, *words, "truncate_dim=4", "--out", tmp_path / "bad")
    assert said.startswith("`--encoder-kwargs` must be a JSON object such as")
    assert not (tmp_path / "bad").exists()
