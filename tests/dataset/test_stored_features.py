"""Selection by a store of embeddings: the picks of the vectors in memory, read from disk, for every option."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

import hf_gip


def pool() -> Dataset:
    texts = [f"row {i} about {i % 17} ships and {i * 7 % 1001} crews" for i in range(600)]
    columns = {"good": [float(i % 13) for i in range(600)], "topic": ["abc"[i % 3] for i in range(600)]}
    return Dataset.from_dict({"text": texts, **columns})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("vectors") / "store")
    hf_gip.store_embeddings(pool(), folder, "lexical", shard_rows=77)
    return folder


EXCLUDE = {"exclude": ["row 5 about 5 ships and 35 crews", "row 77 about 9 ships"], "exclude_threshold": 0.7}
OPTIONS: dict[str, dict[str, Any]] = {
    "pool": {},
    "information": {"objective": "information"},
    "target": {"target": ["row about 3 ships"]},
    "target rows": {"target": Dataset.from_dict({"text": ["row about 3 ships", "16 crews"]})},
    "scores": {"scores": ["good"]},
    "cover": {"cover_columns": ["topic"]},
    "exclude": EXCLUDE,
    "quotas": {"group_column": "topic", "max_per_group": {"a": 2, "b": 3}, "min_per_group": 2},
    "budget": {"max_tokens": 180},
    "all": {
        **EXCLUDE,
        "target": ["row about 3 ships"],
        "target_weight": 0.5,
        "cover_columns": {"topic": 2.0},
        "scores": ["good"],
        "group_column": "topic",
        "min_per_group": 5,
        "initial_rows": [98, 400],
    },
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_store_chooses_what_its_vectors_in_memory_do(store: str, name: str) -> None:
    """The same float16 numbers, as a matrix; with a target as vectors, since a matrix does not name its encoder."""
    options, stored = OPTIONS[name], hf_gip.open_embeddings(store)
    matrix = torch.cat([chunk for _, chunk in stored.chunks()])
    encoder = {"encoder": "lexical"} if {"target", "exclude"} & set(options) else {}
    by_store = pool().gip_select(21, features=store, **options).selection
    by_matrix = pool().gip_select(21, features=matrix, **encoder, **options).selection
    assert by_store.indices.tolist() == by_matrix.indices.tolist()
    assert by_store.gains.tolist() == pytest.approx(by_matrix.gains.tolist(), rel=1e-5)
    by_texts = pool().gip_select(21, encoder="lexical", **options).selection
    assert by_store.objective == pytest.approx(by_texts.objective, rel=1e-3)
    by_store.explain(5)


def test_a_store_is_named_by_path_object_or_what_was_opened(store: str) -> None:
    expected = pool().gip_select(9, features=store).selection.indices.tolist()
    for features in (Path(store), hf_gip.open_embeddings(store)):
        assert pool().gip_select(9, features=features).selection.indices.tolist() == expected


def test_the_record_holds_recipe_type_and_digest_and_the_texts_reproduce_it(store: str, tmp_path: Path) -> None:
    subset = pool().gip_select(9, features=store)
    recipe = subset.selection.record["features"]
    stored = hf_gip.open_embeddings(store)
    assert recipe == {
        **hf_gip.embed(pool(), "lexical").recipe,
        "stored_as": "float16",
        "rounding_error": stored.manifest["rounding_error"],
        "store": stored.digest,
    }
    hf_gip.save_subset(subset, tmp_path / "out")
    assert hf_gip.verify(tmp_path / "out", source=pool()).ok
    from_texts = hf_gip.reproduce(tmp_path / "out", source=pool())
    assert from_texts.verdict == "same picks"
    assert "`features.store`" in str(from_texts)
    exact = hf_gip.reproduce(tmp_path / "out", source=pool(), features=store)
    assert (exact.verdict, exact.not_covered) == ("same picks", ())
    hf_gip.store_embeddings(pool(), tmp_path / "other", "lexical", dtype="float32")
    with pytest.raises(
        ValueError, match=r"^`features` must be the vectors that the subset was chosen by, got others "
    ):
        hf_gip.reproduce(tmp_path / "out", source=pool(), features=tmp_path / "other")


def test_a_store_of_other_rows_is_refused(store: str) -> None:
    other = pool().map(lambda row, i: {"text": "changed" if i == 99 else row["text"]}, with_indices=True)
    same_length = f"`features` must be a store of this dataset's 600 rows, got {store!r}, made from other rows: run "
    with pytest.raises(ValueError, match=f"^{re.escape(same_length)}"):
        other.gip_select(5, features=store)
    with pytest.raises(ValueError, match=r"rows, got '.*', made from 600 rows: run `hf-gip embed` on this dataset\.$"):
        pool().select(range(599)).gip_select(5, features=store)
    with pytest.raises(ValueError, match=r"made from the column 'text', which is not one of \['good', 'topic'\]\.$"):
        pool().remove_columns("text").gip_select(5, features=store)


def test_a_store_of_another_encoder_than_the_target_s_is_refused(store: str, tmp_path: Path) -> None:
    class Lengths:
        def encode(self, sentences: list[str]) -> Any:
            return [[float(len(text)), 1.0] for text in sentences]

    with pytest.raises(ValueError, match=r"^`encoder` must be the one that filled the store, got "):
        pool().gip_select(5, features=store, encoder=Lengths(), encoder_id="lengths", target=["ships"])
    hf_gip.store_embeddings(pool(), tmp_path / "lengths", Lengths(), encoder_id="lengths")
    sentence = "`encoder` must be passed: texts are embedded by what filled the store, which only names it."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        pool().gip_select(5, features=tmp_path / "lengths", target=["ships"])
    named: dict[str, Any] = {"encoder": Lengths(), "encoder_id": "lengths"}
    assert len(pool().gip_select(5, features=tmp_path / "lengths", target=["ships"], **named)) == 5


def test_an_incomplete_store_is_refused_before_any_work(tmp_path: Path) -> None:
    hf_gip.store_embeddings(pool(), tmp_path / "half", "lexical", shard_rows=100, rank=0, world_size=2)
    with pytest.raises(
        FileNotFoundError, match=r"^`store` must be complete, got 3 of 6 shards \(the first missing: 1\)"
    ):
        pool().gip_select(5, features=tmp_path / "half")


MEMORY = """
import sys, resource
import numpy as np
from datasets import Dataset
import hf_gip

class Many:
    def encode(self, texts):
        return np.random.default_rng(len(texts[0])).standard_normal((len(texts), 1024), np.float32)

rows = Dataset.from_dict({"text": [str(i) for i in range(200_000)], "topic": ["ab"[i % 2] for i in range(200_000)]})
options = {"encoder": Many(), "encoder_id": "many"}
if sys.argv[1] == "fill":
    hf_gip.store_embeddings(rows, sys.argv[2], **options)
else:
    hf_gip.gip_select(rows.select(range(50)), 5, features=np.eye(50, 8, dtype=np.float32), cover_columns=["topic"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    target = np.eye(3, 1024, dtype=np.float32)
    hf_gip.gip_select(rows, 20, features=sys.argv[2], target=target, cover_columns=["topic"], exclude=target)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.heavy
def test_a_store_of_400_megabytes_is_never_whole_in_memory(tmp_path: Path) -> None:
    def run(*words: str) -> str:
        command = [sys.executable, "-c", MEMORY, *words]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=tmp_path).stdout

    run("fill", str(tmp_path / "store"))
    megabytes = int(run("select", str(tmp_path / "store")))
    assert megabytes < 300
