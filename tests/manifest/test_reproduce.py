"""Selecting again from the source, and where a dataset came from."""

import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset
from saved_subset import pool, save

import hf_gip
from hf_gip.dataset.loading import open_dataset
from hf_gip.features import sentence_transformer
from hf_gip.hashing import hash_array, hash_folder
from hf_gip.manifest.reader import read_selection_table
from hf_gip.manifest.reproduce import Inputs, _features, reproduce_from
from hf_gip.manifest.schema import MANIFEST_PATH, SELECTION_PATH, read_manifest


def forge(folder: Path, **changes: Any) -> None:
    (folder / MANIFEST_PATH).write_bytes(read_manifest(folder).model_copy(update=changes).sealed().to_bytes())


def test_the_same_picks_are_found_again_and_not_in_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_gip.core import gip as core

    save(tmp_path / "out")
    calls, really = [], core.gip
    monkeypatch.setattr(core, "gip", lambda *args, **kwargs: calls.append(1) or really(*args, **kwargs))
    reproduction = hf_gip.reproduce(tmp_path / "out", source=pool(), device="cpu")
    assert (reproduction.verdict, reproduction.common, reproduction.first_difference) == ("same picks", 6, None)
    assert reproduction
    assert reproduction.published == pytest.approx(reproduction.reproduced)
    assert re.fullmatch(
        r"same picks: 6 of 6 rows in common; objective [\d.]+, published [\d.]+ \([+-][\d.e+-]+\)", str(reproduction)
    )
    assert calls == [1]
    assert datasets.is_caching_enabled()


@pytest.mark.parametrize(
    "options",
    [
        {"encoder": "lexical"},
        {"encoder": "lexical", "template": "say: {text}", "objective": "information"},
        {"encoder": "lexical", "target": ["await loop", "tree"], "whiten": True, "diversity": 0.2},
        {"encoder": "lexical", "scores": ["good"], "quality": 3.0, "noise": 0.7},
        {"features": "vector", "id_column": "name"},
        {"encoder": "lexical", "exclude": ["await loop tree"], "exclude_threshold": 0.3},
    ],
)
def test_every_recorded_option_is_used_again(tmp_path: Path, options: dict[str, Any]) -> None:
    pool().to_parquet(tmp_path / "pool.parquet")
    rows = open_dataset(str(tmp_path / "pool.parquet"))
    hf_gip.save_subset(hf_gip.gip_select(rows, 12, device="cpu", **options), tmp_path / "out")
    assert hf_gip.reproduce(tmp_path / "out", source=tmp_path / "pool.parquet", device="cpu").verdict == "same picks"


def test_inputs_that_the_manifest_only_names_must_be_passed_again(tmp_path: Path) -> None:
    vectors = np.asarray(pool()["vector"][:], np.float32)
    chosen = hf_gip.gip_select(pool(), 5, features=vectors, target=vectors[:3], device="cpu")
    hf_gip.save_subset(chosen, tmp_path / "out")
    message = "`target` must be passed again: the manifest names a matrix and does not hold it."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hf_gip.reproduce(tmp_path / "out", source=pool())
    given = {"features": vectors, "target": vectors[:3]}
    assert hf_gip.reproduce(tmp_path / "out", source=pool(), **given, device="cpu").verdict == "same picks"


@pytest.mark.parametrize("whiten", [False, True])
def test_inputs_passed_again_must_have_the_recorded_hashes(tmp_path: Path, whiten: bool) -> None:
    vectors = np.asarray(pool()["vector"][:], np.float32)
    given: dict[str, Any] = {"features": vectors, "target": vectors[:3], "exclude": vectors[3:5] * 2}
    chosen = hf_gip.gip_select(pool(), 5, whiten=whiten, device="cpu", **given)
    hf_gip.save_subset(chosen, tmp_path / "out")
    assert hf_gip.reproduce(tmp_path / "out", source=pool(), device="cpu", **given).verdict == "same picks"
    wider = {name: matrix.astype(np.float64) for name, matrix in given.items()}
    assert hf_gip.reproduce(tmp_path / "out", source=pool(), device="cpu", **wider).verdict == "same picks"
    whats = {
        "features": "the vectors that the subset was chosen by",
        "target": "the rows that the subset was chosen towards",
        "exclude": "the rows that the subset was kept away from",
    }
    for name, what in whats.items():
        wrong, right = hash_array(torch.tensor(given[name][::-1].copy())), hash_array(torch.tensor(given[name]))
        message = f"`{name}` must be {what}, got others (hash {wrong[:12]}…): pass those of hash {right[:12]}…."
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            hf_gip.reproduce(tmp_path / "out", source=pool(), **given | {name: given[name][::-1].copy()})
    recipe = read_manifest(tmp_path / "out").recipe
    for told in (recipe["features"], recipe["queries"], recipe["excluded"]):
        for name in ("sha256", "given_sha256"):
            told.pop(name, None)
    forge(tmp_path / "out", recipe=recipe)  # as before there were hashes
    other = hf_gip.reproduce(tmp_path / "out", source=pool(), device="cpu", **given | {"target": vectors[9:]})
    assert (other.verdict, bool(other)) == ("different", False)


@pytest.mark.parametrize("options", [{"encoder": "lexical"}, {"features": "vector"}])
def test_rows_that_were_a_target_must_be_the_same(tmp_path: Path, options: dict[str, Any]) -> None:
    target = pool(50).select(range(40, 50))
    hf_gip.save_subset(hf_gip.gip_select(pool(), 5, target=target, device="cpu", **options), tmp_path / "out")
    shuffled = target.remove_columns("good").add_column("more", range(10)).select(range(9, -1, -1)).flatten_indices()
    given = {"source": pool(), "device": "cpu"}
    back = shuffled.select(range(9, -1, -1))
    assert hf_gip.reproduce(tmp_path / "out", target=back, **given).verdict == "same picks"
    refused = r"^`target` must be the rows that the subset was chosen towards, got others "
    for wrong in (shuffled, target.select(range(9))):
        with pytest.raises(ValueError, match=refused + r"\(hash [0-9a-f]{12}…\): pass those of hash [0-9a-f]{12}…\.$"):
            hf_gip.reproduce(tmp_path / "out", target=wrong, **given)
    for wrong in (target.select_columns(["good"]), np.ones((10, 4), np.float32), ["alpha"]):
        with pytest.raises(ValueError, match=refused + r"of another kind: pass those of hash [0-9a-f]{12}…\.$"):
            hf_gip.reproduce(tmp_path / "out", target=wrong, **given)


def test_a_target_from_a_csv_file_is_the_same_though_an_empty_text_is_missing_there(tmp_path: Path) -> None:
    target = Dataset.from_dict({"text": ["tree moon", "", "loop"]})
    chosen = hf_gip.gip_select(pool(), 5, target=target, encoder="lexical", device="cpu")
    hf_gip.save_subset(chosen, tmp_path / "out")
    missing = Dataset.from_dict({"text": ["tree moon", None, "loop"]})
    assert hf_gip.reproduce(tmp_path / "out", source=pool(), target=missing, device="cpu").verdict == "same picks"


def test_needless_inputs_are_refused(tmp_path: Path) -> None:
    hf_gip.save_subset(hf_gip.gip_select(pool(), 5, encoder="lexical", device="cpu"), tmp_path / "out")
    for name, why in {
        "target": "the manifest holds what it needs",
        "exclude": "the subset was kept away from no rows",
        "features": "the rows were chosen by their texts",
    }.items():
        with pytest.raises(ValueError, match=rf"^`{name}` must be left out, got ndarray: {why}\.$"):
            hf_gip.reproduce(tmp_path / "out", source=pool(), **{name: np.ones((40, 4))})


def test_an_encoder_in_a_folder_must_have_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    told = {"kind": "text", "encoder": "model", "files": "0" * 64, "template": None, "columns": ["text"]}
    with pytest.raises(ValueError, match=r"^`encoder` must be the files that the subset was chosen with, got others "):
        _features(told, Inputs(encoder=str(tmp_path / "model")))


def test_a_subset_that_gip_does_not_choose_is_different(tmp_path: Path) -> None:
    save(tmp_path / "out")
    forge(tmp_path / "out", objective=read_manifest(tmp_path / "out").objective * 1.01)
    assert hf_gip.reproduce(tmp_path / "out", source=pool(), device="cpu").verdict == "different"
    save(tmp_path / "two")
    manifest = read_manifest(tmp_path / "two")
    good = hf_gip.gip_select(pool(), 6, features="vector", scores=["good"], device="cpu").selection.indices.tolist()
    picks = read_selection_table(tmp_path / "two" / SELECTION_PATH)
    assert picks["index"].to_pylist() == good
    reproduction = reproduce_from(manifest, picks.take([1, 0, 2, 3, 4, 5]), pool(), Inputs(), device="cpu")
    assert (reproduction.verdict, reproduction.first_difference, reproduction.common) == ("same objective", 0, 6)


def test_another_source_or_method_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "out")
    message = "`source` must be the recorded one: the source has 39 rows, the manifest says 40"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        hf_gip.reproduce(tmp_path / "out", source=pool().select(range(39)))
    forge(tmp_path / "out", parameters={})
    with pytest.raises(ValueError, match=r"^the manifest does not say how to select again: KeyError\('pursuit'\)"):
        hf_gip.reproduce(tmp_path / "out", source=pool())
    forge(tmp_path / "out", method="other")
    message = "only subsets chosen by gip, spice, gtp can be chosen again, got 'other'."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hf_gip.reproduce(tmp_path / "out", source=pool())


def test_no_path_out_of_a_manifest_is_taken_for_an_encoder(tmp_path: Path) -> None:
    hf_gip.save_subset(hf_gip.gip_select(pool(), 3, encoder="lexical", device="cpu"), tmp_path / "out")
    recipe = read_manifest(tmp_path / "out").recipe
    recipe["features"] |= {"encoder": "/somewhere/else", "revision": "0" * 40}
    forge(tmp_path / "out", recipe=recipe)
    with pytest.raises(ValueError, match=r"^`encoder` must be passed again: the manifest names '/somewhere/else'"):
        hf_gip.reproduce(tmp_path / "out", source=pool())


def test_the_source_is_described_as_it_was_opened_also_for_a_cached_selection(tmp_path: Path) -> None:
    pool().to_parquet(tmp_path / "pool.parquet")
    bare = datasets.load_dataset("parquet", data_files=str(tmp_path / "pool.parquet"), split="train")
    opened = open_dataset(str(tmp_path / "pool.parquet"))
    assert isinstance(bare, Dataset)
    bare._fingerprint = opened._fingerprint  # the same rows for every cache
    for rows, kind in ((bare, "rows"), (opened, "files"), (bare, "rows")):
        assert hf_gip.gip_select(rows, 3, features="vector").selection.record["source"]["kind"] == kind


def test_the_weights_installed_as_a_package_need_not_be_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"some")
    monkeypatch.setattr(sentence_transformer, "_packaged_minilm", lambda: str(tmp_path / "model"))
    told = {"kind": "text", "encoder": "model", "files": hash_folder(tmp_path / "model"), "template": None}
    told |= {"columns": ["text"]}
    assert _features(told, Inputs())["encoder"] == str(tmp_path / "model")
    (tmp_path / "model" / ".cache").mkdir()
    (tmp_path / "model" / ".cache" / "download").write_text("where from")  # tools leave such
    copy = str((tmp_path / "model").rename(tmp_path / "copy"))
    assert _features(told, Inputs(encoder=copy))["encoder"] == copy
    told_where = r"^`encoder` must be the folder that the subset was chosen with, got 'lexical': name it\.$"
    with pytest.raises(ValueError, match=told_where):
        _features(told, Inputs(encoder="lexical"))
    Path(copy).rename(tmp_path / "model")
    (tmp_path / "model" / "weights").write_bytes(b"others")
    with pytest.raises(ValueError, match=r"^`encoder` must be passed again: the manifest names 'model'"):
        _features(told, Inputs())
