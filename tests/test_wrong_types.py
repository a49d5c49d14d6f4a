"""A value of a wrong type is refused in one sentence that names the argument, by our code and not deep in a library's.

The numbers that reach `hf_gip.core` are checked there, too, but under these tests the type checker is faster.
"""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, config

import hf_gip

ROWS = Dataset.from_dict({"text": [f"row {i} of {i * i % 13}" for i in range(40)], "good": [i % 5 for i in range(40)]})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    folder = tmp_path_factory.mktemp("wrong-types")
    config.HF_DATASETS_CACHE = folder / "cache"
    subset = hf_gip.gip_select(ROWS, 5, encoder="lexical")
    hf_gip.save_subset(subset, folder / "out")
    return subset, folder


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[
            (name, 3)
            for name in ("scores", "cover_columns", "features", "columns", "template", "initial_rows", "encoder")
        ],
        *[(name, "nope") for name in ("exclude_threshold", "k", "initial_rows", "columns")],
        ("features", [None]),
        ("encoder", ""),
        ("device", 2.5),
        ("columns", []),
        ("exclude_threshold", None),
    ],
)
def test_gip_select_names_the_argument(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^`{name}` must .*, got "):
        hf_gip.gip_select(ROWS, **({"k": 5, "encoder": "lexical"} | {name: value}))


@pytest.mark.parametrize("value", [None, 3, "", [], b"x"])
def test_places_are_names(saved: tuple[Dataset, Path], value: Any) -> None:
    subset, folder = saved
    for function in (hf_gip.load_subset, hf_gip.verify, hf_gip.reproduce):
        with pytest.raises(
            TypeError, match=r"^`repo_or_folder` must be a folder, or a repository such as 'me/rows', got"
        ):
            function(value)
    with pytest.raises(TypeError, match=r"^`folder` must be a new or empty folder, got "):
        hf_gip.save_subset(subset, value)
    with pytest.raises(TypeError, match=r"^`path` must be a file to write"):
        hf_gip.write_report(subset, value)
    with pytest.raises(ValueError, match=r"^`repo_id` must be a dataset repository"):
        hf_gip.push_to_hub(subset, value)
    if value is not None:
        with pytest.raises(TypeError, match=r"^`source` must be a Dataset, a file, a folder, or a Hub id, got "):
            hf_gip.verify(folder / "out", source=value)


@pytest.mark.parametrize("name", ["config_name", "split", "max_shard_size"])
def test_names_and_sizes_are_text(saved: tuple[Dataset, Path], name: str) -> None:
    with pytest.raises(ValueError, match=f"^`{name}` must .*got None"):
        hf_gip.save_subset(saved[0], saved[1] / "new", **{name: None})  # pyright: ignore[reportArgumentType]
    assert not (saved[1] / "new").exists()


def test_a_page_is_no_folder_and_a_row_no_truth_value(saved: tuple[Dataset, Path]) -> None:
    subset, folder = saved
    with pytest.raises(
        ValueError, match=r"^`path` must be a file to write, got the folder .*: add a name, as report\.html\.$"
    ):
        hf_gip.write_report(subset, folder)
    with pytest.raises(TypeError, match=r"^`row` must be a position in the pool, such as 0, got True\.$"):
        subset.selection.explain(True)  # pyright: ignore[reportAttributeAccessIssue]
