"""Every Python block of the README and the docs runs, in order, in a folder of its own."""

import re
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python(?P<flags>[^\n]*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[str]:
    return [found["code"] for found in BLOCK.finditer(page.read_text()) if "no-run" not in found["flags"]]


@pytest.fixture(autouse=True)
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`load_dataset` finds small data under the names the pages use."""
    draw = np.random.default_rng(0)
    rows = [
        {
            "instruction": f"Explain topic {i} in {i % 7} words",
            "input": "",
            "output": f"Topic {i} is about {i * i % 97}.",
            "score_gpt4o_mini": i % 6,
            "score_llama31_8b": (i * 7) % 5,
            "helpfulness": i % 4,
            "accuracy": (3 * i) % 5,
            "embedding": draw.standard_normal(8).tolist(),
        }
        for i in range(1_050)
    ]
    maths = [{"question": f"What is {i} plus {i + 1}?", "answer": f"It is {2 * i + 1}."} for i in range(60)]
    known = {
        "tatsu-lab/alpaca": DatasetDict(train=Dataset.from_list(rows)),
        "openai/gsm8k": DatasetDict(train=Dataset.from_list(maths), test=Dataset.from_list(maths[:9])),
    }

    def load(
        name: str, config_name: str | None = None, *, split: str, revision: str | None = None, token: object = None
    ) -> Dataset:
        part, _, cut = split.partition("[:")
        found = known[name][part]
        return found.select(range(min(len(found), int(cut[:-1])))) if cut else found

    monkeypatch.setattr("datasets.load_dataset", load)
    monkeypatch.setattr("hf_gip.dataset.requests.DEFAULT_ENCODER", "lexical")  # the real one takes minutes
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_the_blocks_of_a_page_run_one_after_another(page: Path) -> None:
    names = {"__name__": "__main__"}
    for number, block in enumerate(blocks(page)):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_that_need_a_large_model_are_python_all_the_same(page: Path) -> None:
    for number, found in enumerate(BLOCK.finditer(page.read_text())):
        compile(found["code"], f"{page.name}, block {number}", "exec")
