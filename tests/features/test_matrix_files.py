"""Matrices on disk give the rows that were written, and refuse what is not a matrix."""

import json
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value
from safetensors.torch import save_file
from tiny_models import tiny_model, tiny_rows

from hf_gip.features import matrix_files as files
from hf_gip.features.bergson import bergson_rows
from hf_gip.features.gradients import gradient_features
from hf_gip.features.matrix_files import FileMatrix, column_rows, npy_rows, safetensors_rows


def matrix(n: int = 37, d: int = 5) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


def check(found: FileMatrix, X: torch.Tensor) -> None:
    assert (found.n, found.d, found.dtype) == (*X.shape, X.dtype)
    pick = torch.tensor([36, 0, 7, 7, 20])
    assert torch.equal(found.rows(pick), X[pick])
    for _ in range(2):  # what was given back is read again
        chunks = [(first, chunk.clone()) for first, chunk in found.chunks()]
        assert torch.equal(torch.cat([chunk for _, chunk in chunks]), X)
        assert [first for first, _ in chunks] == np.cumsum([0, *(len(c) for _, c in chunks)])[:-1].tolist()
    assert torch.equal(found.load(), X)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_npy_file(tmp_path: Path, dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CHUNK_BYTES", 100)
    X = matrix().numpy().astype(dtype)
    np.save(tmp_path / "x.npy", X)
    check(npy_rows(tmp_path / "x.npy"), torch.from_numpy(X))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_safetensors_shards(tmp_path: Path, dtype: torch.dtype) -> None:
    X = matrix().to(dtype)
    save_file({"other": torch.ones(3), "x": X[:20].contiguous()}, tmp_path / "a.safetensors")
    save_file({"x": X[20:].contiguous()}, tmp_path / "b.safetensors")
    check(safetensors_rows([tmp_path / "a.safetensors", tmp_path / "b.safetensors"], "x"), X)


def test_an_arrow_column(tmp_path: Path) -> None:
    X = matrix()
    kind = Features({"v": List(Value("float32"), length=5)})
    made = datasets.concatenate_datasets(
        [Dataset.from_dict({"v": part.tolist()}, features=kind) for part in (X[:11], X[11:])]
    )
    made.save_to_disk(tmp_path / "d")
    check(column_rows(Dataset.load_from_disk(str(tmp_path / "d")), "v"), X)
    sliced = made.data.table.slice(3, 20)
    check_slice = column_rows(Dataset(sliced), "v")
    assert torch.equal(check_slice.load(), X[3:23])
    with pytest.raises(ValueError, match=r"^`dataset` must hold its rows in order, got a selection of them: `flatten"):
        column_rows(made.select([3, 1]), "v")
    with pytest.raises(
        ValueError, match=r"^`name` must be a column of fixed-size lists of floating-point numbers, got"
    ):
        column_rows(Dataset.from_dict({"v": X.tolist()}), "v")


def bergson_store(folder: Path, X: torch.Tensor, **changes) -> None:
    """A store as bergson 2.5 lays it out; `test_bergsons_own_store_holds_our_gradients` has it make one."""
    folder.mkdir(parents=True)
    info = {
        "attribute_tokens": False,
        "num_items": len(X),
        "num_grads": len(X),
        "grad_sizes": {"layers.0.mlp": 2, "layers.1.mlp": X.shape[1] - 2},
        "base_dtype": str(X.dtype).removeprefix("torch."),
    }
    (folder / "info.json").write_text(json.dumps(info | changes, indent=2))
    (folder / "gradients.bin").write_bytes(X.contiguous().view(torch.uint8).numpy().tobytes())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_bergson_store(tmp_path: Path, dtype: torch.dtype) -> None:
    X = matrix().to(dtype)
    bergson_store(tmp_path / "index", X)
    check(bergson_rows(tmp_path / "index"), X)


def test_a_bergson_store_in_shards(tmp_path: Path) -> None:
    X = matrix()
    for number, part in enumerate((X[:10], X[10:])):
        bergson_store(tmp_path / f"shard-{number:05d}", part)
    check(bergson_rows(tmp_path), X)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attribute_tokens": True}, "`folder` must hold one gradient per example, got one per token in"),
        ({"base_dtype": "int8"}, "`folder` must hold a store with a `base_dtype` among float16, bfloat16, float32"),
        ({"num_grads": 38}, "`path` must hold 38 rows of 5 numbers, got a shorter file"),
    ],
)
def test_a_bergson_store_that_cannot_be_used_is_refused(tmp_path: Path, changes, message: str) -> None:
    bergson_store(tmp_path / "index", matrix(), **changes)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        bergson_rows(tmp_path / "index")


@pytest.mark.filterwarnings("ignore")  # whatever another package warns of
def test_bergsons_own_store_holds_our_gradients(tmp_path: Path) -> None:
    """Not among the packages that tests install: `pip install --no-deps bergson simple-parsing docstring-parser`."""
    bergson: Any = pytest.importorskip("bergson", reason="bergson is not installed")
    model, rows = tiny_model(), tiny_rows(12)
    data = Dataset.from_list([{**row, "length": len(row["input_ids"])} for row in rows])
    made = bergson.IndexConfig(run_path=str(tmp_path / "index"), loss_reduction="mean", projection_dim=0)
    bergson.collect_gradients(model, data, bergson.GradientProcessor(projection_dim=None), made)
    stored = bergson_rows(made.partial_run_path).load()
    ours = gradient_features(model, rows, target_modules="model.layers.*_proj", projection_dim=None).features
    torch.testing.assert_close(stored, ours, rtol=1e-4, atol=1e-6)


def test_a_folder_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^`folder` must hold a bergson store \(`info.json`"):
        bergson_rows(tmp_path)


def test_a_file_that_is_no_matrix_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.ones(4))
    with pytest.raises(ValueError, match=r"^`path` must hold a matrix of floating-point numbers, got shape"):
        npy_rows(tmp_path / "flat.npy")
    np.save(tmp_path / "columns.npy", np.asfortranarray(np.ones((3, 4))))
    with pytest.raises(ValueError, match=r"^`path` must hold rows one after another, got columns"):
        npy_rows(tmp_path / "columns.npy")
    save_file({"y": torch.ones(2, 2)}, tmp_path / "y.safetensors")
    with pytest.raises(ValueError, match=r"^`paths` must hold a floating-point matrix 'x', got y in"):
        safetensors_rows([tmp_path / "y.safetensors"], "x")
