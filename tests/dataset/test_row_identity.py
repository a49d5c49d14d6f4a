"""Content decides: rows that were changed are chosen from anew, rows that are merely stored otherwise are not."""

# pyright: reportAttributeAccessIssue=false
# (type checkers cannot know a method added at run time)

import datetime
import decimal
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value, concatenate_datasets, config, load_from_disk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_hashing import VALUES
from tiny_models import tiny_model, tiny_rows, with_lora
from tiny_trainers import exactly, tiny_llama, word_rows, word_tokenizer

import hf_gip
from hf_gip.dataset.gip_options import GipOptions
from hf_gip.dataset.inputs import read_inputs
from hf_gip.hashing import content_fingerprint, hash_json, hash_model, hash_rows

GRADIENTS: dict[str, Any] = {"target_modules": "last_layer", "projection_dim": 8, "seed": 0}
SPICE: dict[str, Any] = {**GRADIENTS, "window": None, "update_every": None}
GTP: dict[str, Any] = {**GRADIENTS, "warmup_fraction": 0.5, "warmup_epochs": 1}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def keys(kind: str = "selections") -> set[str]:
    """What the cache has of one kind."""
    folder = Path(config.HF_DATASETS_CACHE) / "hf_gip" / kind
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


# --- a function that `datasets` cannot see through --------------------


def filled(folder: Path, column: str) -> Dataset:
    """Rows from a function that reads a file: one fingerprint, other rows for another file."""
    words = {
        "a": [f"alpha{i % 7} beta{i % 5}" for i in range(60)],
        "b": [f"gamma{i % 3} delta{i % 11}" for i in range(60)],
    }
    which = folder / "which.txt"
    which.write_text(column)

    def fill(row: dict[str, str]) -> dict[str, str]:
        return {"text": row[which.read_text()]}

    return Dataset.from_dict(words).map(fill, load_from_cache_file=False)


def test_other_rows_under_an_unchanged_fingerprint_are_chosen_from_anew(tmp_path: Path) -> None:
    rows = filled(tmp_path, "a")
    for column in "ab":
        rows = filled(tmp_path, column)
        fresh = Dataset.from_dict({"text": rows["text"][:]})
        picks = rows.gip_select(5, columns=["text"], encoder="lexical").selection.indices.tolist()
        assert picks == fresh.gip_select(5, columns=["text"], encoder="lexical").selection.indices.tolist()
    assert rows._fingerprint == filled(tmp_path, "a")._fingerprint  # else this test shows nothing


@pytest.mark.parametrize("name", ["target", "exclude"])
def test_other_rows_beside_the_pool_count(name: str, tmp_path: Path) -> None:
    halves = [f"alpha{i % 7} beta{i % 5}" for i in range(30)] + [f"gamma{i % 3} delta{i % 11}" for i in range(30)]
    pool = Dataset.from_dict({"text": halves})
    for column in "ab":
        rows = filled(tmp_path, column).select_columns(["text"])
        options: dict[str, Any] = {name: rows, "encoder": "lexical"}
        selection = pool.gip_select(5, **options).selection
        fresh = Dataset.from_dict({"text": rows["text"][:]})
        expected = pool.gip_select(5, **options | {name: fresh}).selection
        assert selection.indices.tolist() == expected.indices.tolist()
        assert selection.record["queries"] == expected.record["queries"]
        assert selection.record["excluded"] == expected.record["excluded"]
    assert len(keys()) == 2


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("column", ["text", "tokens"])
def test_gradients_are_those_of_the_rows_there_are(column: str, beside: bool, tmp_path: Path) -> None:
    words, tokenizer = word_rows(24)["text"][:], word_tokenizer(24)
    texts = {"a": words[:12], "b": words[12:]}
    which = tmp_path / "which.txt"

    def fill(row: dict[str, str]) -> dict[str, Any]:
        text = row[which.read_text()]
        return {"text": text} if column == "text" else {"input_ids": tokenizer(text)["input_ids"]}

    model, pool, found = tiny_llama(len(tokenizer)), word_rows(12, seed=3), []
    for name in "ab":
        which.write_text(name)
        rows = Dataset.from_dict(texts).map(fill, load_from_cache_file=False, remove_columns=["a", "b"])
        options: dict[str, Any] = {"model": model, "tokenizer": tokenizer, **GTP}
        if beside:
            found.append(hf_gip.gtp_select(pool, 4, target=rows, **options).selection.gains)
            continue
        gtp = hf_gip.gtp_select(rows, 4, **options).selection
        spice = hf_gip.spice_select(rows, 4, model=model, tokenizer=tokenizer, **SPICE).selection
        found.append(torch.cat([gtp.gains, spice.gains]))
    assert not torch.allclose(found[0], found[1])


# --- what is read, and what is not --------------------


def rechunked(rows: Dataset) -> Dataset:
    return concatenate_datasets([rows.select([i]) for i in range(len(rows))])


def sliced(rows: Dataset) -> Dataset:
    return concatenate_datasets([rows, rows, rows]).select(range(len(rows), 2 * len(rows)))


def shuffled(rows: Dataset) -> Dataset:
    order = np.random.default_rng(0).permutation(len(rows))
    return rows.select(order).select(np.argsort(order))


def large(rows: Dataset) -> Dataset:
    kinds = {name: "large_string" for name, feature in rows.features.items() if feature == Value("string")}
    return rows.cast(Features({**rows.features, **{name: Value(kind) for name, kind in kinds.items()}}))


def encoded(rows: Dataset) -> Dataset:
    table: Any = rows.with_format("arrow")[:]
    columns = {
        name: table[name].dictionary_encode() if pa.types.is_string(table[name].type) else table[name]
        for name in table.column_names
    }
    return Dataset(pa.table(columns), info=rows.info, fingerprint="encoded")


def formatted(kind: str) -> Callable[[Dataset], Dataset]:
    return lambda rows: rows.with_format(kind)


def extended(rows: Dataset) -> Dataset:
    return rows.add_column("another", list(range(len(rows)))).select_columns([*reversed(rows.column_names), "another"])


STORES = {
    "rechunked": rechunked,
    "sliced": sliced,
    "shuffled": shuffled,
    "large": large,
    "encoded": encoded,
    "numpy": formatted("numpy"),
    "torch": formatted("torch"),
    "pandas": formatted("pandas"),
    "extended": extended,
}
WORDS = st.text(st.sampled_from("abc dé"), min_size=1, max_size=8).filter(lambda text: bool(text.strip()))
OTHER = {"text": "zz", "score": 99, "topic": 0, "kind": "w", "tokens": 77, "vector": [0.5, 9.0]}
READ: dict[str, tuple[str, ...]] = {
    "text": ("text",),
    "scores": ("text", "score"),
    "cover_columns": ("text", "topic", "kind"),
    "quotas": ("text", "topic", "tokens"),
    "vectors": ("vector", "score"),
}


@st.composite
def pools(draw: Any) -> Dataset:
    """Four to eight rows with every kind of column that `gip_select` reads."""
    n = draw(st.integers(4, 8))
    drawn = {
        "text": draw(st.lists(WORDS, min_size=n, max_size=n)),
        "score": draw(st.lists(st.integers(0, 9), min_size=n, max_size=n, unique=True)),
        "topic": [i % 3 for i in range(n)],
        "kind": ["xy"[i % 2] for i in range(n - 1)] + [None],
        "tokens": draw(st.lists(st.integers(1, 20), min_size=n, max_size=n)),
        "vector": [[float(i), 1.0] for i in range(n)],
    }
    return Dataset.from_dict(drawn).cast_column("topic", ClassLabel(names=["math", "code", "law"]))


def options_of(case: str) -> dict[str, Any]:
    return {
        "text": {},
        "scores": {"scores": ["score"]},
        "cover_columns": {"cover_columns": ["topic", "kind"]},
        "quotas": {
            "group_column": "topic",
            "max_per_group": {"math": 2},
            "max_tokens": 30,
            "token_column": "tokens",
        },
        "vectors": {"features": "vector", "scores": ["score"]},
    }[case]


def request(pool: Dataset, case: str, **options: Any) -> str:
    """The key of a `gip_select` call."""
    return hash_json(read_inputs(pool, GipOptions(encoder="lexical", **options_of(case), **options)).identity)


def changed(pool: Dataset, column: str, row: int) -> Dataset:
    """The pool with another value in one place."""
    values = pool.with_format(None)[column][:]
    values[row] = OTHER[column] if values[row] != OTHER[column] else 1 if column == "topic" else "x"
    columns: Any = pool.to_dict()
    return Dataset.from_dict({**columns, column: values}, features=pool.features)


@pytest.mark.parametrize("case", READ)
@settings(max_examples=12, deadline=None)
@given(pool=pools(), data=st.data())
def test_every_value_that_is_read_counts_and_no_other(case: str, pool: Dataset, data: Any) -> None:
    before, row = request(pool, case), data.draw(st.integers(0, len(pool) - 1))
    for column in pool.column_names:
        other = changed(pool, column, row)
        assert (request(other, case) != before) == (column in READ[case]), column
    if len(set(pool["text"][:])) > 1 and case != "vectors":
        assert request(pool.select(range(1, len(pool))), case) != before


@pytest.mark.parametrize("case", READ)
@settings(max_examples=8, deadline=None)
@given(pool=pools(), store=st.sampled_from(sorted(STORES)), beside=st.booleans())
def test_another_storage_changes_no_key(case: str, pool: Dataset, store: str, beside: bool) -> None:
    stored = STORES[store](pool)
    assert request(stored, case) == request(pool, case)
    if beside:
        for name in ("target", "exclude"):
            assert request(pool, case, **{name: stored}) == request(pool, case, **{name: pool})


@settings(max_examples=12, deadline=None)
@given(pool=pools(), data=st.data(), name=st.sampled_from(["target", "exclude"]))
def test_every_text_beside_the_pool_counts(pool: Dataset, data: Any, name: str) -> None:
    row, before = data.draw(st.integers(0, len(pool) - 1)), request(pool, "text", **{name: pool})
    assert request(pool, "text", **{name: changed(pool, "text", row)}) != before
    assert request(pool, "text", **{name: changed(pool, "score", row)}) == before
    texts = pool["text"][:]
    assert request(pool, "text", **{name: texts}) != request(pool, "text", **{name: [*texts[:row], "zz"]})


@pytest.mark.parametrize("store", sorted(set(STORES) - {"large", "encoded"}))
def test_gradient_selections_know_rows_by_their_tokens(store: str) -> None:
    rows, model = Dataset.from_list(tiny_rows(12)), tiny_model()
    for pool in (rows, STORES[store](rows)):
        hf_gip.spice_select(pool, 3, model=model, **SPICE)
        hf_gip.gtp_select(pool, 3, model=model, target=STORES[store](rows), **GTP)
    made = {kind: len(keys(kind)) for kind in ("selections", "gradients", "warmups")}
    assert made == {"selections": 2, "gradients": 2, "warmups": 1}  # the target's rows are the pool's


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.integers(0, 11), name=st.sampled_from(["input_ids", "labels"]), target=st.booleans())
def test_every_token_and_label_counts(row: int, name: str, target: bool) -> None:
    listed, model = tiny_rows(12), tiny_model()
    listed[row] = {**listed[row], name: [*listed[row][name][:-1], (listed[row][name][-1] + 1) % 40]}
    rows, other = Dataset.from_list(tiny_rows(12)), Dataset.from_list(listed)
    for pool in (rows, other):
        hf_gip.spice_select(pool, 3, model=model, **SPICE)
        hf_gip.gtp_select(rows if target else pool, 3, model=model, target=pool if target else None, **GTP)
    assert len(keys()) >= 4
    before = keys()
    hf_gip.spice_select(other, 3, model=model, **SPICE)
    assert keys() == before


def scaled(model: Any, factor: float) -> Any:
    for module in model.modules():
        if hasattr(module, "lora_A"):
            module.scaling = dict.fromkeys(module.scaling, factor)
    return model


@pytest.mark.parametrize(
    "models",
    [
        (lambda: tiny_model(), lambda: tiny_model(num_attention_heads=4, num_key_value_heads=2)),
        (lambda: tiny_model(), lambda: tiny_model(rms_norm_eps=1e-2)),
        (lambda: scaled(with_lora(tiny_model()), 2.0), lambda: scaled(with_lora(tiny_model()), 4.0)),
    ],
    ids=["heads", "norm", "lora"],
)
def test_models_of_equal_weights_that_compute_otherwise_are_two(models: tuple[Any, Any]) -> None:
    first, second = (make() for make in models)
    second.load_state_dict(first.state_dict())
    assert hash_model(first) != hash_model(second)
    first.config.use_cache = not first.config.use_cache  # how it is run, not what it computes
    assert hash_model(first) == hash_model(models[0]())


# --- the subset --------------------


def saved_rows(folder: Path, words: list[str]) -> Dataset:
    """Rows on disk, so that `map` keeps what it made beside them."""
    if folder.exists():
        shutil.rmtree(folder)
    Dataset.from_dict({"text": words}).save_to_disk(folder)
    rows = load_from_disk(folder)
    assert isinstance(rows, Dataset)
    return rows


def test_a_subset_of_other_rows_is_mapped_anew(tmp_path: Path, cache: Path) -> None:
    vectors = torch.eye(12)
    mapped = []
    for scores in (range(12), range(12, 0, -1)):
        rows = saved_rows(tmp_path / "rows", [f"row {i}" for i in range(12)])
        ranked = rows.add_column("score", list(map(float, scores)))
        ranked = ranked.select_columns(["text", "score"])
        ranked._fingerprint = "the-same"
        subset = ranked.gip_select(3, features=vectors, scores=["score"])
        mapped.append(subset.map(lambda row: {"upper": row["text"].upper()})["upper"][:])
        assert mapped[-1] == [text.upper() for text in subset["text"][:]]
        shutil.rmtree(cache)
    assert mapped[0] != mapped[1]


@settings(max_examples=12, deadline=None)
@given(pool=pools(), store=st.sampled_from(sorted(set(STORES) - {"numpy", "torch", "pandas", "extended"})))
def test_equal_picks_of_equal_rows_are_one_dataset_whatever_was_asked(pool: Dataset, store: str) -> None:
    first = pool.gip_select(2, features=torch.eye(len(pool)))
    other = STORES[store](pool).gip_select(2, features=torch.eye(len(pool)), objective="information")
    assert first.selection.indices.tolist() == other.selection.indices.tolist()
    assert first._fingerprint == other._fingerprint
    assert first.with_format("numpy")._fingerprint != first._fingerprint


def test_a_subset_shown_in_another_way_has_another_fingerprint() -> None:
    pool = Dataset.from_dict({"text": ["a", "b", "c"]})
    plain, shown = (rows.gip_select(2, features=torch.eye(3)) for rows in (pool, pool.with_format("numpy")))
    assert plain._fingerprint != shown._fingerprint


ALL_KINDS = [*VALUES, "image", "label"]


def values_of(data: Any, kind: str, n: int) -> tuple[list[Any], Any]:
    """Values of one kind of column, and its feature where `datasets` needs to be told."""
    if kind == "label":
        return data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)), ClassLabel(names=["a", "b", "c"])
    if kind == "image":
        found = data.draw(st.lists(st.binary(max_size=6), min_size=n, max_size=n))
        return [{"bytes": each, "path": None} for each in found], Image(decode=False)
    return data.draw(st.lists(st.none() | VALUES[kind][1], min_size=n, max_size=n)), None


@settings(max_examples=30, deadline=None)
@given(data=st.data(), kind=st.sampled_from(ALL_KINDS), store=st.sampled_from(["rechunked", "sliced", "shuffled"]))
def test_a_fingerprint_of_content_sees_every_value_of_every_kind(data: Any, kind: str, store: str) -> None:
    n = data.draw(st.integers(1, 5))
    (values, feature), row = values_of(data, kind, n), data.draw(st.integers(0, n - 1))
    (other, *_), _ = values_of(data, kind, 1)

    def rows(column: list[Any]) -> Dataset:
        if feature is not None:
            return Dataset.from_dict({"x": column}, features=Features({"x": feature}))
        return Dataset(pa.table({"x": pa.array(column, VALUES[kind][0])}))

    dataset, changed = rows(values), rows([*values[:row], other, *values[row + 1 :]])
    assert content_fingerprint(STORES[store](dataset)) == content_fingerprint(dataset)
    same = str(changed.to_list()) == str(dataset.to_list())
    assert (content_fingerprint(changed) == content_fingerprint(dataset)) == same


UNUSUAL = {
    "decimal": pa.array([decimal.Decimal("1.5"), None, decimal.Decimal("2.5")]),
    "fixed": pa.array([b"ab", b"cd", None], pa.binary(2)),
    "duration": pa.array([datetime.timedelta(1), None, datetime.timedelta(2)]),
    "instant": pa.array([datetime.datetime(2020, 1, 1), None, None], pa.timestamp("us", "UTC")),
    "half": pa.array(np.array([1, 2, 3], np.float16)),
    "large list": pa.array([[1], [], None], pa.large_list(pa.int64())),
    "fixed list": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int8(), 2)),
    "nothing": pa.nulls(3),
    "lists of nothing": pa.array([[], [None], None], pa.list_(pa.null())),
    "view": pa.array(["a", None, "c"], pa.string_view()),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_columns_of_unusual_kinds_go_along(kind: str) -> None:
    rows = Dataset(pa.table({"x": UNUSUAL[kind], "i": [0, 1, 2]}))
    subset = rows.gip_select(2, features=torch.eye(3))
    moved = concatenate_datasets([rows, rows]).select([5, 4, 3]).select([2, 1, 0])
    assert moved.gip_select(2, features=torch.eye(3))._fingerprint == subset._fingerprint
    assert hash_rows(rows.select([1, 1, 2]), ["x"]) != hash_rows(rows, ["x"]) or kind == "nothing"


# --- what is shown is what is read --------------------


def stripped(batch: dict[str, list[str]]) -> dict[str, list[str]]:
    return {"text": [text[3:-4] for text in batch["text"]]}


@pytest.mark.parametrize("door", ["gip", "target", "exclude", "spice", "gtp", "goal", "tokens", "compare", "embed"])
@pytest.mark.parametrize("in_place", [False, True])
def test_rows_shown_through_a_function_are_refused(door: str, in_place: bool) -> None:
    texts = {"text": [f"<p>row {i}</p>" for i in range(30)]}
    plain, rows = Dataset.from_dict(texts), Dataset.from_dict(texts)
    if in_place:
        rows.set_transform(stripped)
    else:
        rows = rows.with_transform(stripped)
    model, tokenizer = tiny_llama(40), word_tokenizer(4)
    calls: dict[str, tuple[str, Callable[[], Any]]] = {
        "gip": ("dataset", lambda: rows.gip_select(3, encoder="lexical")),
        "target": ("target", lambda: plain.gip_select(3, encoder="lexical", target=rows)),
        "exclude": ("exclude", lambda: plain.gip_select(3, encoder="lexical", exclude=rows)),
        "spice": ("dataset", lambda: hf_gip.spice_select(rows, 3, model=model, tokenizer=tokenizer)),
        "gtp": ("dataset", lambda: hf_gip.gtp_select(rows, 3, model=model, tokenizer=tokenizer)),
        "goal": ("target", lambda: hf_gip.gtp_select(plain, 3, model=model, tokenizer=tokenizer, target={"a": rows})),
        "tokens": ("dataset", lambda: hf_gip.gradient_trajectories(rows, model=model, tokenizer=tokenizer)),
        "compare": ("pool", lambda: hf_gip.compare({"a": [1, 2]}, rows, encoder="lexical")),
        "embed": ("dataset", lambda: hf_gip.embed(rows, "lexical")),
    }
    name, call = calls[door]
    with pytest.raises(
        ValueError,
        match=exactly(
            f"`{name}` must hold the rows that it shows, got a dataset with a transform (`with_transform` or "
            "`set_transform`): apply the function with `map`, or drop it with `with_format(None)`."
        ),
    ):
        call()


def test_a_subset_shown_through_a_function_is_not_saved(tmp_path: Path) -> None:
    subset = Dataset.from_dict({"text": [f"<p>row {i}</p>" for i in range(30)]}).gip_select(3, encoder="lexical")
    subset.set_transform(stripped)
    with pytest.raises(
        ValueError, match=r"^`subset` must hold the rows that it shows, got a dataset with a transform"
    ):
        hf_gip.save_subset(subset, tmp_path / "out")


# --- values of any library --------------------

MATRIX = np.random.default_rng(0).normal(size=(30, 4))
POOL = Dataset.from_dict({"text": [f"row {i} of {i % 7}" for i in range(30)], "vector": MATRIX.tolist()})


class Lengths:
    """An encoder for any texts."""

    def encode(self, sentences: list[str], /) -> np.ndarray:
        return np.array([[len(text), text.count("1"), 1.0, text.count("2")] for text in sentences])


@pytest.mark.parametrize(
    "given_as",
    [
        pd.DataFrame,
        lambda matrix: pd.Series(list(matrix)),
        lambda matrix: pd.DataFrame(matrix).astype("Float64"),
        lambda matrix: POOL["vector"],
        lambda matrix: POOL.with_format("torch")["vector"],
        lambda matrix: pa.array(matrix.tolist()),
        lambda matrix: pa.chunked_array([matrix[:9].tolist(), matrix[9:].tolist()]),
        lambda matrix: list(matrix),
        lambda matrix: [torch.tensor(row) for row in matrix],
        lambda matrix: matrix[::-1][::-1],
        np.asfortranarray,
        lambda matrix: matrix.tolist(),
    ],
)
def test_vectors_may_come_in_any_array(given_as: Callable[[np.ndarray], Any]) -> None:
    expected = POOL.gip_select(4, features=MATRIX, target=MATRIX[:3], exclude=MATRIX[5:6]).selection
    subset = POOL.gip_select(
        4, features=given_as(MATRIX), target=given_as(MATRIX)[:3], exclude=np.asarray(MATRIX[5:6])
    )
    assert subset.selection.indices.tolist() == expected.indices.tolist()


@pytest.mark.parametrize(
    "given_as",
    [pd.Series, np.array, pa.array, tuple, lambda texts: Dataset.from_dict({"t": texts})["t"], pd.DataFrame],
)
def test_texts_may_come_in_any_array(given_as: Callable[[list[str]], Any]) -> None:
    texts = ["row 11", "row 21"]
    target = pd.DataFrame({"text": texts}) if given_as is pd.DataFrame else given_as(texts)
    found = POOL.gip_select(4, target=target, encoder="lexical").selection.indices.tolist()
    assert found == POOL.gip_select(4, target=texts, encoder="lexical").selection.indices.tolist()


def test_numbers_and_names_may_be_of_numpy_or_pandas() -> None:
    pool = POOL.add_column("good", list(range(30))).add_column("topic", ["ab"[i % 2] for i in range(30)])
    names = pd.DataFrame(columns=["good"]).columns
    quotas = pd.Series(pool["topic"][:]).value_counts() // 5
    options: dict[str, Any] = {"features": MATRIX, "group_column": "topic"}
    plain = pool.gip_select(4, **options, scores=["good"], max_per_group={"a": 3, "b": 3}, noise=0.5)
    other = pool.gip_select(
        np.int64(4), **options, scores=names, max_per_group=quotas.to_dict(), noise=np.float32(0.5)
    )
    assert other.selection.indices.tolist() == plain.selection.indices.tolist()
    assert len(keys()) == 1
    initial_rows = pd.Series([7, 3])
    assert pool.gip_select(torch.tensor(4), features=MATRIX, initial_rows=initial_rows)["text"][:2] == [
        "row 7 of 0",
        "row 3 of 3",
    ]
    tokens, model, k = Dataset.from_list(tiny_rows(9)), tiny_model(), cast("Any", np.int64(2))
    assert len(hf_gip.spice_select(tokens, k, model=model, **{**SPICE, "seed": np.int64(0)})) == 2
    assert len(hf_gip.gtp_select(tokens, k, model=model, **{**GTP, "warmup_epochs": np.int64(1)})) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"features": {"a": 1}},
            "`features` must be a column's name, a matrix with a row per example or a store, got dict.",
        ),
        (
            {"features": MATRIX, "scores": pd.Series(range(30))},
            "`scores` must be a list of column names such as ['helpfulness'], got Series: put values into a column "
            "with `dataset.add_column` and name it.",
        ),
        (
            {"features": MATRIX, "scores": torch.zeros(30)},
            "`scores` must be a list of column names such as ['helpfulness'], got Tensor: put values into a column "
            "with `dataset.add_column` and name it.",
        ),
        ({"target": object()}, "`target` must be a Dataset, a list of texts or a matrix, got object."),
    ],
)
def test_what_cannot_be_read_is_named_by_its_type(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=exactly(message)):
        POOL.gip_select(3, **{"encoder": "lexical", **options})


def test_a_sparse_matrix_is_refused_in_one_sentence() -> None:
    sparse = pytest.importorskip("scipy.sparse").csr_matrix(MATRIX)
    with pytest.raises(TypeError, match=r"^`features` must be a column's name, a matrix .*, got csr_matrix\.$"):
        POOL.gip_select(3, features=sparse)


def test_ids_are_a_column() -> None:
    with pytest.raises(ValueError, match=r"^`id_column` must name a column of the dataset .*, got "):
        POOL.gip_select(3, features=MATRIX, id_column=pd.Series(range(30)))


# --- groups by name --------------------


def labelled() -> Dataset:
    label = ClassLabel(names=["math", "code", "law"])
    topics = Dataset.from_dict({"topic": [i % 3 for i in range(29)] + [-1]}, features=Features({"topic": label}))
    return concatenate_datasets([POOL, topics], axis=1)


@pytest.mark.parametrize("quota", [{"math": 1, "code": 2}, {0: 1, 1: 2}, {np.int64(0): np.int64(1), "code": 2}])
def test_quotas_name_the_labels_of_a_class_label(quota: dict[Any, int], tmp_path: Path) -> None:
    subset = labelled().gip_select(8, features=MATRIX, group_column="topic", max_per_group=quota)
    topics = subset["topic"][:]
    assert (topics.count(0), topics.count(1)) == (1, 2)
    limits = subset.selection.record["limits"]
    assert limits["max_per_group"] == {"math": 1, "code": 2}
    assert limits["groups"]["math"] == 1
    hf_gip.save_subset(subset, tmp_path / "out")
    again = hf_gip.reproduce(tmp_path / "out", source=labelled(), features=MATRIX)
    assert again.verdict == "same picks"


def test_an_unknown_label_is_named() -> None:
    with pytest.raises(
        ValueError,
        match=exactly("`max_per_group` must name groups of 'topic' ('math', 'code', 'law', None), got 'art'."),
    ):
        labelled().gip_select(8, features=MATRIX, group_column="topic", max_per_group={"art": 1})


def test_other_names_of_the_same_labels_are_other_rows() -> None:
    pool = labelled()
    renamed = pool.cast_column("topic", ClassLabel(names=["maths", "code", "law"]))
    options: dict[str, Any] = {"features": MATRIX, "cover_columns": ["topic"]}
    first, second = (rows.gip_select(6, **options).selection.record for rows in (pool, renamed))
    assert first["cover_columns"] == second["cover_columns"]
    assert len(keys()) == 2


# --- numbers of any size --------------------


@pytest.mark.parametrize("scale", [1e30, 1e-30])
@pytest.mark.parametrize(
    "case", ["alone", "information", "target", "mixed", "whitened", "scores", "queries", "cover_columns", "exclude"]
)
def test_the_scale_of_the_vectors_chooses_no_rows(scale: float, case: str) -> None:
    pool = POOL.add_column("good", list(range(30))).add_column("topic", ["ab"[i % 2] for i in range(30)])

    def picks(factor: float) -> list[int]:
        matrix = (MATRIX * factor).astype(np.float32)
        options: dict[str, Any] = {
            "alone": {},
            "information": {"objective": "information"},
            "target": {"target": matrix[:3]},
            "mixed": {"target": matrix[:3], "target_weight": 0.5},
            "whitened": {"target": matrix[:3], "whiten": True},
            "scores": {"scores": ["good"]},
            "queries": {"scores": ["good"], "scores_as": "queries"},
            "cover_columns": {"cover_columns": ["topic"]},
            "exclude": {"exclude": matrix[:3]},
        }[case]
        return pool.gip_select(5, features=matrix, **options).selection.indices.tolist()

    assert picks(scale) == picks(1.0)
