"""Embeddings are known by their texts and by what the encoder is: no stale vector, and no text encoded twice."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, concatenate_datasets, load_from_disk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sklearn.feature_extraction.text import TfidfVectorizer
from tiny_encoders import WORDS, pool, texts_of, tokenizer

import hf_gip
from hf_gip.features import embed as module
from hf_gip.features.embed import SAMPLE_ROWS, embed, embed_texts
from hf_gip.features.embedding_cache import EmbeddingCache
from hf_gip.features.encoders import resolve_encoder


class Letters:
    """Counts letters up to `limit` characters, and remembers every text it saw."""

    def __init__(self, limit: int = 10**9, weight: float = 1.0) -> None:
        self.seen: list[str] = []
        self.limit, self.weight = limit, weight

    def encode(self, sentences: list[str], /) -> Any:
        self.seen += sentences
        cut = [text[: self.limit] for text in sentences]
        return np.array([[t.count("a") * self.weight, t.count("e"), t.count("t"), len(t)] for t in cut])


class Topics:
    """A TF-IDF vectorizer as people wrap one."""

    def __init__(self, texts: list[str]) -> None:
        self.tfidf = TfidfVectorizer().fit(texts)

    def encode(self, sentences: list[str], /) -> Any:
        return np.asarray(self.tfidf.transform(sentences).toarray())  # pyright: ignore[reportAttributeAccessIssue]


def expected(rows: Dataset, encoder: Any) -> np.ndarray:
    raw = np.asarray(encoder.encode(rows.with_format(None)["text"][:]))
    return raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-30)


def encoded_by(encoder: Letters, rows: Dataset, **options: Any) -> Counter[str]:
    before = len(encoder.seen)
    matrix = embed(rows, encoder, encoder_id="letters", columns=["text"], **options).matrix
    asked = Counter(encoder.seen[before:])
    assert np.allclose(matrix.numpy(), expected(rows, Letters()), atol=1e-6)
    return asked


# --- what is no change of the texts --------------------------------------------------------------------------------


def retyped(rows: Dataset, kind: pa.DataType) -> Dataset:
    table = rows.with_format("arrow")[:]
    return Dataset(table.set_column(0, "text", table["text"].combine_chunks().cast(kind)))  # type: ignore[union-attr]


def saved(rows: Dataset, folder: Path) -> Dataset:
    rows.save_to_disk(str(folder / "saved"))
    return load_from_disk(str(folder / "saved"))  # pyright: ignore[reportReturnType]


SAME_TEXTS: dict[str, Callable[[Dataset, Path], Dataset]] = {
    "another column": lambda rows, _: rows.add_column("new", ["x"] * len(rows)),
    "one column less": lambda rows, _: rows.remove_columns("other"),
    "columns in another order": lambda rows, _: rows.select_columns(["other", "text"]),
    "saved and loaded": saved,
    "filtered": lambda rows, _: rows.filter(lambda row: row["other"] % 3 == 0),
    "shuffled": lambda rows, _: rows.shuffle(seed=1),
    "reversed": lambda rows, _: rows.select(range(len(rows) - 1, -1, -1)),
    "sliced": lambda rows, _: rows.select(range(20, 70)),
    "twice": lambda rows, _: concatenate_datasets([rows, rows]),
    "in chunks": lambda rows, _: concatenate_datasets([rows.select(range(i, i + 50)) for i in range(0, 300, 50)]),
    "dictionary-encoded": lambda rows, _: retyped(rows, pa.dictionary(pa.int32(), pa.string())),
    "large strings": lambda rows, _: retyped(rows, pa.large_string()),
    "another fingerprint": lambda rows, _: Dataset(rows.data, fingerprint="f" * 16),
    "another format": lambda rows, _: rows.with_format("numpy"),
}


@pytest.mark.parametrize("name", SAME_TEXTS)
def test_no_text_is_encoded_again_where_only_the_rest_changes(name: str, tmp_path: Path) -> None:
    rows, encoder = pool(), Letters()
    assert encoded_by(encoder, rows) == Counter(dict.fromkeys(rows["text"][:], 1))
    assert not encoded_by(encoder, SAME_TEXTS[name](rows, tmp_path))


def test_a_pool_that_grew_embeds_what_it_grew_by() -> None:
    encoder = Letters()
    encoded_by(encoder, pool(1_000))
    assert len(encoded_by(encoder, pool(1_010))) == 10
    assert not encoded_by(encoder, pool(1_010))


def test_equal_texts_are_encoded_once_and_empty_ones_never() -> None:
    encoder = Letters()
    found = embed(Dataset.from_dict({"text": ["tea", "", "eat", "tea", " ", "tea"]}), encoder, encoder_id="letters")
    assert sorted(encoder.seen) == ["eat", "tea"]
    assert found.recipe["empty_rows"] == 2
    assert found.matrix[1].tolist() == found.matrix[4].tolist() == [0] * 4
    assert torch.equal(found.matrix[0], found.matrix[3])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(max_size=6), min_size=1, max_size=40).filter(lambda texts: any(map(str.strip, texts))))
def test_the_vectors_are_those_of_the_texts_whatever_the_cache_holds(texts: list[str]) -> None:
    rows = Dataset.from_dict({"text": texts})
    want = expected(rows, Letters())
    want[[not text.strip() for text in texts]] = 0
    assert np.allclose(embed(rows, Letters(), encoder_id="letters").matrix.numpy(), want, atol=1e-6)


def test_a_change_anywhere_in_a_text_is_seen() -> None:
    encoder, texts = Letters(), texts_of(200)
    encoded_by(encoder, Dataset.from_dict({"text": texts}))
    for row, at in ((0, 0), (57, -1), (199, 3)):
        changed = texts.copy()
        changed[row] = changed[row][:at] + "tat" + changed[row][at:]
        assert encoded_by(encoder, Dataset.from_dict({"text": changed})) == Counter([changed[row]])


def test_rows_under_an_unchanged_fingerprint_have_their_own_vectors(tmp_path: Path) -> None:
    columns = {"a": [f"alpha{i % 7} beta{i % 5}" for i in range(60)], "b": [f"gamma{i % 3} eta{i}" for i in range(60)]}
    which = tmp_path / "which.txt"
    base = Dataset.from_dict(columns)
    first, second = (
        base.map(lambda row: {"text": row[which.read_text()]}, load_from_cache_file=False, new_fingerprint="same")
        for column in "ab"
        if which.write_text(column)
    )
    assert first._fingerprint == second._fingerprint
    for rows in (first, second):
        assert np.allclose(embed(rows, Letters(), columns=["text"]).matrix.numpy(), expected(rows, Letters()))


def test_a_large_matrix_is_gathered_in_a_file_that_goes_with_it(
    fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_gip.features.embedding_cache.IN_MEMORY", 100)
    matrix = embed(pool(), Letters(), encoder_id="letters").matrix
    assert np.allclose(matrix.numpy(), expected(pool(), Letters()), atol=1e-6)
    assert {path.suffix for path in fresh_cache.rglob("*") if path.is_file()} == {".safetensors", ""}


# --- what an encoder is ---------------------------------------------------------------------------------------------


def model(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu")


def nudge(encoder: SentenceTransformer) -> None:
    with torch.no_grad():
        next(iter(encoder.parameters()))[3, 2] += 1.0


CHANGES: dict[str, Callable[[SentenceTransformer], Any]] = {
    "max_seq_length": lambda m: setattr(m, "max_seq_length", 3),
    "truncate_dim": lambda m: setattr(m, "truncate_dim", 4),
    "prompts": lambda m: (m.prompts.update(ask="kappa "), setattr(m, "default_prompt_name", "ask")),
    "weights": nudge,
    "dtype": lambda m: m.to(torch.bfloat16),
    "pooling": lambda m: setattr(m[1], "pooling_mode", "cls"),
    "tokenizer": lambda m: setattr(m.tokenizer.backend_tokenizer, "pre_tokenizer", None),
    "a hook": lambda m: m[0].register_forward_hook(lambda _, __, out: {**out, **first_only(out)}),
    "another encode": lambda m: setattr(m, "encode", Letters().encode),
}


def first_only(out: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    tokens = out["token_embeddings"]
    return {"token_embeddings": tokens[:, :1].expand_as(tokens)}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.filterwarnings("ignore:.encoder. .*does not answer")
def test_a_model_changed_in_place_has_its_new_vectors(name: str, model_folder: Path) -> None:
    encoder = model(model_folder)
    before = embed(pool(60), encoder)
    CHANGES[name](encoder)
    after = embed(pool(60), encoder)
    want = torch.as_tensor(np.asarray(encoder.encode(pool(60)["text"][:]))).float()
    assert torch.allclose(after.matrix, want / want.norm(dim=1, keepdim=True), atol=2e-2 if name == "dtype" else 1e-5)
    assert after.recipe != before.recipe
    back = embed(pool(60), model(model_folder))
    assert torch.equal(back.matrix, before.matrix)
    assert back.recipe == before.recipe


def test_a_model_is_the_same_after_use_and_from_another_load(model_folder: Path) -> None:
    one, two = model(model_folder), model(model_folder)
    identity = resolve_encoder(one).identity
    assert set(identity) == {"encoder", "state"}
    one.encode(texts_of(9), prompt="say ")
    assert one.similarity_fn_name == "cosine"  # set when first read
    assert resolve_encoder(one).identity == resolve_encoder(two.train()).identity == identity


def test_a_static_model_is_known_by_its_state() -> None:
    words = tokenizer().backend_tokenizer
    encoder = SentenceTransformer(modules=[StaticEmbedding(words, embedding_dim=4)], device="cpu")
    before = resolve_encoder(encoder).identity
    words.enable_truncation(2)
    assert set(before) == {"encoder", "state"}
    assert resolve_encoder(encoder).identity != before


def test_a_cached_call_asks_an_object_for_a_few_texts_only() -> None:
    encoder = Letters()
    first = embed(pool(1_000), encoder)
    assert Counter(encoder.seen) == Counter(dict.fromkeys(pool(1_000)["text"][:], 1))
    asked = encoder.seen = []
    second = embed(pool(1_000).shuffle(seed=3), encoder)
    lengths = sorted(map(len, pool(1_000)["text"][:]))
    assert len(asked) == SAMPLE_ROWS
    assert {min(map(len, asked)), max(map(len, asked))} == {lengths[0], lengths[-1]}
    assert second.recipe == first.recipe
    encoder.seen = []
    embed(pool(1_010), encoder)
    assert len(encoder.seen) <= 10 + SAMPLE_ROWS
    encoder.seen = []
    embed(pool(1_010), encoder)
    assert len(encoder.seen) <= 2 * SAMPLE_ROWS


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda: Letters(limit=20), lambda: Letters(limit=60)),
        (lambda: Letters(), lambda: Letters(weight=1.001)),
        (lambda: Topics(texts_of(50)), lambda: Topics(texts_of(200)[50:])),
        (lambda: Topics(["the court and the law"]), lambda: Topics(["medicine of the eta", "beta"])),
    ],
)
def test_objects_of_one_class_that_answer_otherwise_do_not_share_vectors(first: Any, second: Any) -> None:
    rows = pool()
    one = embed(rows, first()).matrix
    with pytest.warns(UserWarning, match="does not answer with the cached vectors") as said:
        two = embed(rows, second()).matrix
    assert len(said) == 1
    for matrix, encoder in ((one, first()), (two, second())):
        assert np.allclose(matrix.numpy(), expected(rows, encoder), atol=1e-6)
    assert torch.equal(embed(rows, first()).matrix, one)  # both are kept
    assert torch.equal(embed(rows, second()).matrix, two)


def test_an_object_whose_batches_add_noise_is_the_same() -> None:
    class Noisy(Letters):
        def encode(self, sentences: list[str], /) -> Any:
            answer = super().encode(sentences)
            return answer + 0.002 * (len(sentences) % 7) * np.linalg.norm(answer, axis=1, keepdims=True) / 7

    embed(pool(), Noisy())
    encoder = Noisy()
    embed(pool(), encoder)
    assert set(Counter(encoder.seen).values()) == {2}  # each probe once among others and once alone
    assert len(encoder.seen) == 2 * SAMPLE_ROWS


def test_an_encoder_id_is_taken_at_its_word() -> None:
    one = embed(pool(), Letters(), encoder_id="v1")
    encoder = Letters(weight=5)
    assert torch.equal(embed(pool(), encoder, encoder_id="v1").matrix, one.matrix)
    assert not encoder.seen
    assert one.recipe["encoder_id"] == "v1"
    assert not torch.equal(embed(pool(), encoder, encoder_id="v2").matrix, one.matrix)
    with pytest.raises(ValueError, match=r"^`encoder_id` must name one encoder, got vectors of width 10 where the"):
        embed(pool(310), type("Letters", (Topics,), {"__module__": __name__})(WORDS), encoder_id="v1")


@pytest.mark.parametrize(
    ("encoder", "encoder_id", "message"),
    [
        (Letters(), 7, "`encoder_id` must be a text that names the encoder, got 7."),
        (Letters(), "", "`encoder_id` must be a text that names the encoder, got ''."),
        ("lexical", "x", "`encoder_id` names an encoder object, got it beside encoder='lexical': leave it out."),
    ],
)
def test_a_wrong_encoder_id_is_one_sentence(encoder: Any, encoder_id: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        embed(pool(9), encoder, encoder_id=encoder_id)
    assert str(caught.value) == message


# --- answers that are no vectors ------------------------------------------------------------------------------------

MUST = "`encoder` must return one row of numbers per text, got "
WRONG: dict[str, tuple[Callable[[list[str]], Any], str]] = {
    "sparse": (lambda t: csr_array(np.eye(len(t))), "a sparse matrix (csr_array): return it dense, `.toarray()`"),
    "sparse tensor": (lambda t: torch.eye(len(t)).to_sparse(), "a sparse matrix (Tensor): return it dense"),
    "dict": (lambda t: {"dense": np.eye(len(t))}, "a dict of ['dense']: return the matrix of vectors in it."),
    "token ids": (lambda t: tokenizer()(t), "a BatchEncoding of ['input_ids', 'attention_mask']: that is of a tok"),
    "None": (lambda t: None, "a NoneType of something else, None: return a float array."),
    "words": (lambda t: [["a"]] * len(t), "a list of something else, [['a']"),
    "ragged": (lambda t: [[1.0] * (i + 1) for i in range(len(t))] + [[]], "a list of something else, [[1.0]"),
    "one vector": (lambda t: np.ones(3), "shape (3,) for 1 texts: return shape (1, width)."),
    "token vectors": (lambda t: np.ones((len(t), 2, 3)), "shape (1, 2, 3) for 1 texts"),
    "too many rows": (lambda t: np.ones((len(t) + 1, 3)), "shape (2, 3) for 1 texts: return shape (1, width)."),
    "no numbers": (lambda t: np.ones((len(t), 0)), "shape (1, 0) for 1 texts"),
    "NaN": (lambda t: np.full((len(t), 3), np.nan), "NaN or infinity for 1 of 1 texts: check its `encode`."),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("call", [lambda e: embed(pool(40), e), lambda e: embed_texts(["tea"], resolve_encoder(e))])
def test_an_answer_of_the_wrong_kind_is_one_sentence(name: str, call: Callable[[Any], Any]) -> None:
    answer, message = WRONG[name]
    encoder = Letters()
    encoder.encode = lambda sentences, /: answer(sentences)
    with pytest.raises((TypeError, ValueError)) as caught:
        call(encoder)
    assert str(caught.value).startswith(MUST + message)
    assert "\n" not in str(caught.value)


def test_vectors_of_two_widths_are_refused() -> None:
    encoder = Letters()
    encoder.encode = lambda sentences, /: np.ones((len(sentences), 3 if len(sentences) > 1 else 2))
    with pytest.raises(ValueError, match=r"^`encoder` must return vectors of one width, got 2 and then 3\.$"):
        embed(pool(40), encoder)


@pytest.mark.parametrize("wrong", [tokenizer(), tokenizer().backend_tokenizer])
def test_a_tokenizer_is_no_encoder(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^`encoder` must turn texts into vectors, got the tokenizer \S+: pass its"):
        embed(pool(9), wrong)


def test_a_class_is_no_encoder() -> None:
    with pytest.raises(TypeError, match=r"^`encoder` must be a model id, 'lexical' or an object with an `encode`"):
        embed(pool(9), Letters)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e300, 1e-300])
def test_the_scale_of_the_answers_does_not_count(scale: float) -> None:
    encoder = Letters()
    encoder.encode = lambda sentences, /: Letters().encode(sentences) * scale
    assert np.allclose(embed(pool(40), encoder).matrix.numpy(), expected(pool(40), Letters()), atol=1e-6)


# --- the folder on disk ---------------------------------------------------------------------------------------------


def spoil_vectors(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


SPOILS: dict[str, Callable[[Path], Any]] = {
    "a flipped bit": spoil_vectors,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "emptied": lambda path: path.write_bytes(b""),
    "junk": lambda path: path.write_bytes(os.urandom(200)),
}


@pytest.mark.parametrize("name", SPOILS)
def test_a_damaged_shard_is_made_again_and_said(name: str, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_ROWS", 50)
    encoder = Letters()
    encoded_by(encoder, pool())
    spoiled = sorted(fresh_cache.rglob("*.safetensors"))[1]
    SPOILS[name](spoiled)
    with pytest.warns(UserWarning, match="are damaged or foreign: they are made again") as said:
        assert len(encoded_by(encoder, pool())) == 50
    assert len(said) == 1
    assert not encoded_by(encoder, pool())


def test_a_shard_of_another_encoder_is_not_served(fresh_cache: Path) -> None:
    embed(pool(), Letters(), encoder_id="one")
    [theirs] = fresh_cache.rglob("*.safetensors")
    embed(pool(), Letters(weight=3), encoder_id="two")
    [ours] = set(fresh_cache.rglob("*.safetensors")) - {theirs}
    ours.write_bytes(theirs.read_bytes())
    with pytest.warns(UserWarning, match="damaged or foreign"):
        matrix = embed(pool(), Letters(weight=3), encoder_id="two").matrix
    assert np.allclose(matrix.numpy(), expected(pool(), Letters(weight=3)), atol=1e-6)


def test_keys_that_end_in_a_zero_byte_are_found(tmp_path: Path) -> None:
    from hf_gip.features.embedding_cache import write_shard

    keys = np.frombuffer(bytes(range(1, 16)) + b"\0" + bytes(16) + b"\0" * 15 + b"\1", "S16")
    write_shard(tmp_path, keys, np.eye(3, dtype=np.float32))
    assert EmbeddingCache([tmp_path]).find(keys).tolist() == [0, 1, 2]


TOGETHER = """
import sys
import datasets, numpy as np
from hf_gip.features import embed as module

datasets.config.HF_DATASETS_CACHE = sys.argv[1]
module.SHARD_ROWS = 40

class Letters:
    def encode(self, sentences, /):
        print(len(sentences), flush=True)
        return np.array([[len(s), s.count("1") + 1.0] for s in sentences])

rows = datasets.Dataset.from_dict({"text": [str(i) * (i % 9 + 1) for i in range(int(sys.argv[2]), 1_000)]})
found = module.embed(rows, Letters(), encoder_id="letters").matrix.double().numpy()
raw = Letters().encode(rows["text"][:])
assert np.allclose(found, raw / np.linalg.norm(raw, axis=1, keepdims=True)), "wrong vectors"
print("fine", flush=True)
"""


def test_processes_that_fill_one_folder_from_different_pools_agree(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", TOGETHER, str(tmp_path), str(start)] for start in (0, 300, 600)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    assert [process.communicate(timeout=300)[0].splitlines()[-1] for process in running] == ["fine"] * 3
    last = subprocess.run(commands[0], capture_output=True, text=True, check=True).stdout.splitlines()
    assert last == ["1000", "fine"]  # the check's own call, and no other


# --- through the one-liner -------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.encoder. .*does not answer")
def test_selections_follow_the_encoder_as_it_is(model_folder: Path) -> None:
    rows, encoder = pool(90), model(model_folder)
    first = hf_gip.gip_select(rows, 9, encoder=encoder).selection
    encoder.max_seq_length = 3
    second = hf_gip.gip_select(rows, 9, encoder=encoder).selection
    want = hf_gip.gip_select(rows, 9, features=expected(rows, encoder)).selection
    assert second.indices.tolist() == want.indices.tolist() != first.indices.tolist()
    assert second.record["features"] != first.record["features"]
    law, medicine = (Topics(texts_of(40, seed)) for seed in (1, 2))
    for topics in (law, medicine, law):
        chosen = hf_gip.gip_select(rows, 9, encoder=topics).selection.indices.tolist()
        assert chosen == hf_gip.gip_select(rows, 9, features=expected(rows, topics)).selection.indices.tolist()


def test_a_selection_asks_an_object_for_a_few_texts_and_then_serves_the_cache() -> None:
    encoder = Letters()
    first = hf_gip.gip_select(pool(500), 9, encoder=encoder)
    encoder.seen = []
    again = hf_gip.gip_select(pool(500), 9, encoder=encoder)
    assert len(encoder.seen) <= SAMPLE_ROWS
    assert again.selection.indices.tolist() == first.selection.indices.tolist()
    encoder.seen = []
    hf_gip.gip_select(pool(500), 9, encoder=encoder, encoder_id="letters")
    assert len(encoder.seen) == 500
    hf_gip.gip_select(pool(500), 7, encoder=encoder, encoder_id="letters")
    assert len(encoder.seen) == 500


@pytest.mark.parametrize("target", [texts_of(20), Dataset.from_dict({"text": texts_of(20)})])
@pytest.mark.filterwarnings("ignore:.encoder. .*does not answer")
def test_a_target_embedded_beside_ready_vectors_follows_the_encoder(target: Any) -> None:
    vectors = np.random.default_rng(0).normal(size=(300, 4))
    options: dict[str, Any] = {"features": vectors, "target": target}
    one = hf_gip.gip_select(pool(), 9, encoder=Letters(), **options).selection
    two = hf_gip.gip_select(pool(), 9, encoder=Letters(weight=50.0), **options).selection
    raw = expected(Dataset.from_dict({"text": texts_of(20)}), Letters(weight=50.0)).astype(np.float32)
    want = hf_gip.gip_select(pool(), 9, features=vectors, target=raw).selection
    assert two.indices.tolist() == want.indices.tolist() != one.indices.tolist()
