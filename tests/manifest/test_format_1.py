"""Folders saved in format 1 verify and reproduce; what cannot be compared any more is said, never passed as ok."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, config
from tiny_models import tiny_model, tiny_rows

import hf_gip
from hf_gip.hashing import hash_bytes
from hf_gip.manifest.reproduce import Reproduction
from hf_gip.manifest.schema import MANIFEST_PATH, read_manifest

FOLDERS = Path(__file__).parents[1] / "data" / "format_1"
SOURCES = {"gip_texts": "pool", "gip_vectors": "pool", "spice": "tokens", "gtp": "tokens"}


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")


def source(name: str) -> Dataset:
    lines = (FOLDERS / f"{SOURCES[name]}.jsonl").read_text().splitlines()
    return Dataset.from_list([json.loads(line) for line in lines])


def reproduce(name: str, **inputs: Any) -> Reproduction:
    return hf_gip.reproduce(FOLDERS / name, source=source(name), device="cpu", **inputs)


@pytest.mark.parametrize("name", SOURCES)
def test_a_folder_verifies_alone_and_with_its_source(name: str) -> None:
    assert hf_gip.verify(FOLDERS / name).ok
    report = hf_gip.verify(FOLDERS / name, source=source(name))
    assert [check.outcome for check in report.checks] == ["ok"] * 7
    assert report.checks[0].sentence.startswith("format 1, ")


@pytest.mark.parametrize("name", SOURCES)
def test_its_rows_come_with_their_selection(name: str) -> None:
    subset = hf_gip.load_subset(FOLDERS / name)
    assert isinstance(subset, Dataset)
    assert subset[:] == source(name).select(subset.selection.indices.tolist())[:]


@pytest.mark.parametrize("name", ["gip_texts", "gip_vectors"])
def test_gip_chooses_the_same_rows(name: str) -> None:
    reproduction = reproduce(name)
    assert (reproduction.verdict, reproduction.not_covered) == ("same picks", ())


@pytest.mark.parametrize(("name", "target"), [("spice", None), ("gtp", Dataset.from_list(tiny_rows(4, seed=5)))])
def test_gradients_choose_the_same_rows_of_a_proxy_whose_hash_is_not_covered(name: str, target: Any) -> None:
    reproduction = reproduce(name, model=tiny_model(), target=target)
    assert reproduction.verdict == "same picks"
    assert reproduction.not_covered == ("`proxy.weights`, which was hashed in another way when this was saved",)


def test_options_have_the_names_of_today() -> None:
    texts, spice, gtp = (read_manifest(FOLDERS / name) for name in ("gip_texts", "spice", "gtp"))
    limits = {"max_tokens": 60, "initial_rows": 1, "max_per_group": 5}
    assert texts.recipe["cover_columns"]["columns"] == {"source": 1.0}
    assert {name: texts.recipe["limits"][name] for name in limits} == limits
    assert texts.recipe["features"]["dims"] == 512  # a width, not an option
    assert (spice.parameters["projection_dim"], gtp.recipe["features"]["projection_dim"]) == (64, 64)
    assert spice.recipe["features"]["target_modules"] == "model.layers.*_proj"
    assert gtp.recipe["warm_up"] == {"warmup_fraction": 0.5, "warmup_epochs": 2, "warmup_learning_rate": 0.001}
    assert gtp.parameters["learning_rates"] == [0.001, 0.0005]


def seal(document: dict[str, Any]) -> str:
    """The manifest as format 1 wrote it, with its digest."""
    text = json.dumps({**document, "digest": ""}, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    return text.replace('"digest": ""', f'"digest": "{hash_bytes(text.encode())}"')


def test_a_changed_manifest_is_found_and_a_sealed_one_is_compared_with_the_rest(tmp_path: Path) -> None:
    path = Path(shutil.copytree(FOLDERS / "gip_texts", tmp_path / "out")) / MANIFEST_PATH
    document = json.loads(path.read_text())
    assert seal(document) == path.read_text()
    path.write_text(path.read_text().replace('"budget_tokens": 60', '"budget_tokens": 61'))
    changed = "a field of gip/manifest.json was changed: its content does not fit its `digest`."
    assert [check.sentence for check in hf_gip.verify(tmp_path / "out").failed] == [changed]
    path.write_text(seal(document | {"k": 7}))
    assert [check.name for check in hf_gip.verify(tmp_path / "out").failed] == ["selection"]
    path.write_text(json.dumps(document))
    rewritten = "gip/manifest.json was rewritten: its bytes are not in canonical form."
    assert [check.sentence for check in hf_gip.verify(tmp_path / "out").failed] == [rewritten]


@pytest.mark.parametrize("spoiled", [{"recipe": []}, {"recipe": {"limits": 3, "proxy": None}}, {"parameters": "x"}])
def test_a_malformed_manifest_is_refused_and_never_crashes(tmp_path: Path, spoiled: dict[str, Any]) -> None:
    path = Path(shutil.copytree(FOLDERS / "gip_texts", tmp_path / "out")) / MANIFEST_PATH
    path.write_text(seal(json.loads(path.read_text()) | spoiled))
    with pytest.raises(ValueError, match=r"^the manifest (is not valid at `|does not say how to select again: )"):
        hf_gip.reproduce(tmp_path / "out", source=source("gip_texts"))
