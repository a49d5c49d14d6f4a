"""Every reader of bytes that may come from elsewhere: damaged in any way, it refuses in words and never runs on."""

import contextlib
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import saved_subset
import torch
from datasets import config
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import hf_gip
from hf_gip.dataset.cache import load_selection, store_selection
from hf_gip.features import embed as embedding
from hf_gip.features.bergson import bergson_rows
from hf_gip.features.gradient_store import open_store
from hf_gip.features.matrix_files import npy_rows, safetensors_rows
from hf_gip.manifest.reader import read_selection_table
from hf_gip.manifest.schema import CARD_PATH, MANIFEST_PATH, SELECTION_PATH, parse_manifest
from hf_gip.manifest.training_run import read_run, verify_run
from hf_gip.selection import Selection

FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
REFUSED = (ValueError, FileNotFoundError)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A way to spoil a file: bytes overwritten, cut off, doubled, or all of it replaced."""
    kind = draw(st.sampled_from(["write", "cut", "insert", "replace"]))
    at, new = draw(st.floats(0, 1)), draw(st.binary(min_size=1, max_size=12))

    def spoil(data: bytes) -> bytes:
        place = min(len(data) - 1, int(at * len(data)))
        if kind == "write":
            return data[:place] + new + data[place + len(new) :]
        return {"cut": data[:place], "insert": data[:place] + new + data[place:], "replace": new}[kind]

    return spoil


def refuses(read: Callable[[], Any]) -> Any:
    """What the reader gives, or None where it refuses in words."""
    with contextlib.suppress(*REFUSED):
        return read()
    return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        saved_subset.save(tmp_path_factory.mktemp("saved") / "good")
    return next(tmp_path_factory.getbasetemp().glob("saved*/good"))


@FEW
@given(damage(), st.sampled_from([MANIFEST_PATH, SELECTION_PATH, "data/train-00000-of-00001.parquet"]))
def test_a_damaged_file_of_a_subset_is_always_found_and_never_fatal(
    folder: Path, tmp_path: Path, spoil: Callable[[bytes], bytes], name: str
) -> None:
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    good = (copy / name).read_bytes()
    (copy / name).write_bytes(bad := spoil(good))
    assert hf_gip.verify(copy).ok == (bad == good)
    refuses(lambda: hf_gip.verify(copy, source=saved_subset.pool()))


@FEW
@given(damage())
@example(lambda _: b"---\nconfigs: " + b"[" * 5_000 + b"\n---\n")
@example(lambda _: b"---\nconfigs: [{data_files: &a [*a]}]\n---\n")
@example(lambda _: b"---\n2024-99-99\n---\n")
def test_a_damaged_card_is_a_failed_check_or_text_that_changes_nothing(
    folder: Path, tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    (copy / CARD_PATH).write_bytes(spoil((folder / CARD_PATH).read_bytes()))
    assert {check.name for check in hf_gip.verify(copy).failed} <= {"card"}


@FEW
@given(JSON, st.data())
def test_a_manifest_of_other_values_is_refused_in_one_sentence(folder: Path, value: Any, data: st.DataObject) -> None:
    fields = json.loads((folder / MANIFEST_PATH).read_text())
    place: Any = fields
    while isinstance(place, dict) and place:
        name = data.draw(st.sampled_from(sorted(place)))
        if isinstance(place[name], dict) and data.draw(st.booleans()):
            place = place[name]
            continue
        place[name] = value
        break
    refuses(lambda: parse_manifest(json.dumps(fields).encode()))
    refuses(lambda: parse_manifest(json.dumps(value).encode()))


def selection_file(path: Path, **columns: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)


@FEW
@given(st.data())
def test_a_selection_file_of_other_columns_is_refused(folder: Path, tmp_path: Path, data: st.DataObject) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(folder / SELECTION_PATH).to_pydict()
    name = data.draw(st.sampled_from(sorted(table)))
    other = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=5)
    table[name] = [data.draw(other)] * 6 if data.draw(st.booleans()) else [2**62, -1, 0, 0, 0, 0]
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    selection_file(copy / SELECTION_PATH, **table)
    refuses(lambda: read_selection_table(copy / SELECTION_PATH))
    assert not hf_gip.verify(copy, source=saved_subset.pool()).ok


def test_gains_that_add_up_to_no_number_fail_the_check(folder: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    shutil.copytree(folder, tmp_path / "copy")
    table = pq.read_table(folder / SELECTION_PATH)
    gains = np.array([np.inf, -np.inf, 1, 1, 1, 1])
    pq.write_table(
        table.set_column(table.column_names.index("gain"), "gain", [gains]), tmp_path / "copy" / SELECTION_PATH
    )
    assert "selection" in [check.name for check in hf_gip.verify(tmp_path / "copy").failed]


@FEW
@given(JSON, damage())
def test_the_record_of_a_run_is_data(tmp_path: Path, value: Any, spoil: Callable[[bytes], bytes]) -> None:
    (tmp_path / "gip").mkdir(exist_ok=True)
    file = {"epoch": 0, "step": 0, "file": "selection_epoch_00000.parquet", "sha256": "0" * 64, "rows": 1}
    file |= {"items": 1, "items_sha256": "0" * 64}
    good = {"model": "m", "pool_rows": 5, "parameters": {}, "rounds": [file], "digest": ""}
    for text in (json.dumps(value).encode(), spoil(json.dumps(good).encode()), b"[" * 100_000):
        (tmp_path / "gip" / "run.json").write_bytes(text)
        refuses(lambda: read_run(tmp_path))
        assert not verify_run(tmp_path).ok


@pytest.mark.parametrize("index", [["a", "b"], [None, 1], [[1], [2]], [2**62, 0], [0.5, 1.5]])
def test_a_selection_of_a_run_may_hold_anything(tmp_path: Path, index: list[Any]) -> None:
    from hf_gip.hashing import hash_file

    (tmp_path / "gip").mkdir()
    selection_file(path := tmp_path / "gip" / "selection_epoch_00000.parquet", index=index, epoch=[0, 0])
    file = {"epoch": 0, "step": 0, "file": path.name, "sha256": hash_file(path), "rows": 2}
    file |= {"items": 2, "items_sha256": "0" * 64}
    run = {"model": "m", "pool_rows": 5, "parameters": {}, "rounds": [file]}
    (tmp_path / "gip" / "run.json").write_text(json.dumps(run))
    assert "selections" in [check.name for check in verify_run(tmp_path).failed]


@FEW
@given(damage())
@example(lambda _: (2**63).to_bytes(8, "little") + b"{}")
@example(lambda _: (2).to_bytes(8, "little") + b"[]")
@example(lambda _: (16).to_bytes(8, "little") + b'{"features": 3}\n')
def test_a_damaged_matrix_on_disk_is_refused_or_read_within_its_bounds(
    tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    matrix = torch.arange(12.0).view(4, 3)
    np.save(tmp_path / "m.npy", matrix.numpy())
    save_file({"features": matrix}, tmp_path / "m.safetensors")
    for path, read in ((tmp_path / "m.npy", npy_rows), (tmp_path / "m.safetensors", one_matrix)):
        path.write_bytes(spoil(path.read_bytes()))
        if (rows := refuses(lambda path=path, read=read: read(path))) is not None:
            assert rows.load().shape == (rows.n, rows.d)


def one_matrix(path: Path) -> Any:
    return safetensors_rows([path], "features")


@FEW
@given(JSON, st.sampled_from(["num_grads", "grad_sizes", "base_dtype", "attribute_tokens", "all"]))
@example(-4, "num_grads")
@example({"a": -3}, "grad_sizes")
def test_a_bergson_store_is_data(tmp_path: Path, value: Any, name: str) -> None:
    info = {"num_grads": 4, "grad_sizes": {"layer": 3}, "base_dtype": "float32"}
    (tmp_path / "gradients.bin").write_bytes(bytes(48))
    (tmp_path / "info.json").write_text(json.dumps(value if name == "all" else info | {name: value}))
    if (rows := refuses(lambda: bergson_rows(tmp_path))) is not None:
        assert rows.load().shape == (rows.n, rows.d)


@FEW
@given(JSON, damage(), st.booleans())
@example(2**70, lambda data: data, True)
@example(-1, lambda data: data, True)
def test_a_gradient_store_is_data(
    tmp_path: Path, value: Any, spoil: Callable[[bytes], bytes], wrong_note: bool
) -> None:
    from hf_gip.hashing import hash_json

    identity: Any = {"rows": value if wrong_note else 4}
    (tmp_path / "gradients.json").write_text(json.dumps(identity))
    tensors = {"features": torch.ones(4, 3), "rows": torch.arange(4)}
    note = {"identity": hash_json({"rows": 4}), "left_out": "0", "truncated": "0"}
    save_file(tensors, shard := tmp_path / "gradients-00000.safetensors", note)
    shard.write_bytes(spoil(shard.read_bytes()))
    if (store := refuses(lambda: open_store(tmp_path))) is not None:
        assert store.features.load().shape == (len(store.rows), store.features.d)


@FEW
@given(damage(), st.sampled_from(["record.json", "selection.safetensors"]))
def test_a_damaged_cached_selection_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[bytes], bytes], name: str
) -> None:
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path)
    store_selection("f", Selection(torch.arange(3), torch.ones(3, dtype=torch.float64), 4.0, record={"a": 1}))
    path = tmp_path / "hf_gip" / "selections" / "f" / name
    path.write_bytes(spoil(path.read_bytes()))
    assert load_selection("f") is None or len(load_selection("f")) == 3  # pyright: ignore[reportArgumentType]


@FEW
@given(damage())
def test_a_damaged_cached_embedding_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path)
    want = embedding.embed(saved_subset.pool(), "lexical")
    [path] = (tmp_path / "hf_gip" / "embeddings").glob("*/*.safetensors")
    path.write_bytes(spoil(path.read_bytes()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the cached embeddings in .* are damaged")  # not all damage is some
        again = embedding.embed(saved_subset.pool(), "lexical")
    assert torch.equal(again.matrix, want.matrix)
    assert again.recipe == want.recipe
