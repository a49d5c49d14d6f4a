"""What a digest must see, and what it must not: one change of content changes it, another storage does not."""

import datetime
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Sequence, Value, concatenate_datasets
from hypothesis import given
from hypothesis import strategies as st

from hf_gip.hashing import hash_array, hash_each_row, hash_json, hash_rows, hash_texts

WORDS = st.text(max_size=12)
VALUES: dict[str, tuple[pa.DataType, Any]] = {
    "text": (pa.string(), WORDS),
    "number": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "real": (pa.float64(), st.floats(allow_nan=False)),
    "flag": (pa.bool_(), st.booleans()),
    "bytes": (pa.binary(), st.binary(max_size=8)),
    "day": (pa.date32(), st.dates(datetime.date(1970, 1, 1), datetime.date(2100, 1, 1))),
    "tokens": (pa.list_(pa.int32()), st.lists(st.integers(0, 99), max_size=4)),
    "turns": (
        pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
        st.lists(st.fixed_dictionaries({"role": WORDS, "content": st.none() | WORDS}), max_size=3),
    ),
    "nested": (pa.list_(pa.list_(pa.string())), st.lists(st.lists(st.none() | WORDS, max_size=2), max_size=3)),
}


@st.composite
def tables(draw: Any) -> dict[str, tuple[pa.DataType, list[Any]]]:
    """A few columns of 1 to 8 rows, with missing values."""
    n = draw(st.integers(1, 8))
    names = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=3, unique=True))
    return {
        name: (VALUES[name][0], draw(st.lists(st.none() | VALUES[name][1], min_size=n, max_size=n))) for name in names
    }


def dataset_of(columns: dict[str, tuple[pa.DataType, list[Any]]]) -> Dataset:
    return Dataset(pa.table({name: pa.array(values, kind) for name, (kind, values) in columns.items()}))


def rechunked(rows: Dataset) -> Dataset:
    return concatenate_datasets([rows.select([i]) for i in range(len(rows))])


def sliced(rows: Dataset) -> Dataset:
    return concatenate_datasets([rows, rows, rows]).select(range(len(rows), 2 * len(rows)))


def indexed(rows: Dataset) -> Dataset:
    n = len(rows)
    return concatenate_datasets([rows, rows]).select(list(reversed(range(2 * n)))).select(list(reversed(range(n))))


def extended(rows: Dataset) -> Dataset:
    return rows.add_column("another", list(range(len(rows)))).select_columns(list(reversed(rows.column_names)))


@pytest.mark.parametrize("store", [rechunked, sliced, indexed, extended])
@given(columns=tables())
def test_another_storage_of_the_same_rows_has_the_same_digest(
    store: Callable[[Dataset], Dataset], columns: dict[str, Any]
) -> None:
    rows = dataset_of(columns)
    assert hash_rows(store(rows), rows.column_names) == hash_rows(rows)


@given(columns=tables(), other=tables())
def test_equal_digests_mean_equal_rows(columns: dict[str, Any], other: dict[str, Any]) -> None:
    a, b = dataset_of(columns), dataset_of(other)
    same = {name: kind for name, (kind, _) in columns.items()} == {name: kind for name, (kind, _) in other.items()}
    same = same and a.to_list() == b.to_list() and str(a.to_list()) == str(b.to_list())
    assert (hash_rows(a) == hash_rows(b)) == same


@given(columns=tables(), data=st.data())
def test_a_change_of_one_value_changes_the_digest(columns: dict[str, Any], data: Any) -> None:
    name = data.draw(st.sampled_from(sorted(columns)))
    kind, values = columns[name]
    row = data.draw(st.integers(0, len(values) - 1))
    value = data.draw((st.none() | VALUES[name][1]).filter(lambda value: str(value) != str(values[row])))
    changed = {**columns, name: (kind, [*values[:row], value, *values[row + 1 :]])}
    assert hash_rows(dataset_of(changed)) != hash_rows(dataset_of(columns))


@given(values=st.lists(st.none() | WORDS, min_size=1, max_size=8))
def test_the_encoding_of_texts_does_not_count(values: list[str | None]) -> None:
    plain = pa.array(values, pa.string())
    stored = [plain, plain.dictionary_encode(), plain.cast(pa.large_string())]
    assert len({hash_rows(Dataset(pa.table({"text": each}))) for each in stored}) == 1
    assert len({hash_each_row(each).tobytes() for each in stored}) == 1


@given(values=st.lists(st.none() | st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=8))
def test_each_row_has_the_digest_of_its_values(values: list[list[int] | None]) -> None:
    digests = hash_each_row(pa.array(values, pa.list_(pa.int32())))
    for i, a in enumerate(values):
        for j, b in enumerate(values):
            assert (digests[i] == digests[j]) == (a == b)


def test_values_under_missing_rows_do_not_count() -> None:
    values = pa.array([1, 2, 3, 4], pa.int64())
    masked = pa.Array.from_buffers(pa.int64(), 4, [pa.py_buffer(b"\x0d"), values.buffers()[1]])
    assert hash_rows(Dataset(pa.table({"n": masked}))) == hash_rows(Dataset(pa.table({"n": [1, None, 3, 4]})))


def test_texts_that_run_together_differ() -> None:
    a, b = (Dataset.from_dict({"text": texts}) for texts in (["ab", "c"], ["a", "bc"]))
    assert hash_rows(a) != hash_rows(b)
    a, b = (Dataset.from_dict({"tokens": tokens}) for tokens in ([[1, 2], [3]], [[1], [2, 3]]))
    assert hash_rows(a) != hash_rows(b)


def test_names_of_classes_count() -> None:
    first, second = (
        Dataset.from_dict({"c": [0, 1]}, features=Features({"c": ClassLabel(names=names)}))
        for names in (["a", "b"], ["b", "a"])
    )
    assert hash_rows(first) != hash_rows(second)


def test_lists_of_fixed_and_free_length_agree() -> None:
    fixed = Dataset.from_dict({"v": [[1.0, 2.0], [3.0, 4.0]]}, features=Features({"v": Sequence(Value("float32"), 2)}))
    free = Dataset.from_dict({"v": [[1.0, 2.0], [3.0, 4.0]]}, features=Features({"v": Sequence(Value("float32"))}))
    assert hash_rows(fixed) == hash_rows(free)
    assert hash_rows(fixed) != hash_rows(free.cast_column("v", Sequence(Value("float64"))))


@given(texts=st.lists(WORDS, min_size=2, max_size=6, unique=True))
def test_every_text_has_its_own_digest(texts: list[str]) -> None:
    assert len(set(hash_texts(texts).tolist())) == len(texts)


def test_arrays_count_with_shape_and_type() -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert hash_array(matrix) == hash_array(torch.from_numpy(matrix)) == hash_array(np.asfortranarray(matrix))
    assert len({hash_array(each) for each in (matrix, matrix.reshape(3, 2), matrix.astype(np.float64), -matrix)}) == 4


def test_json_depends_on_every_part() -> None:
    assert hash_json({"a": 1, "b": [2]}) == hash_json({"b": [2], "a": 1}) != hash_json({"a": 1, "b": [3]})


def test_no_column_at_all_is_a_count_of_rows() -> None:
    rows = Dataset.from_dict({"a": range(9)})
    picked = rows.select([3, 1, 4, 1])
    assert hash_rows(picked, []) == hash_rows(rows.select(range(4)), []) != hash_rows(rows, [])
