"""Rows become texts: layouts are found, columns and templates are obeyed, mistakes are named."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from training import exactly, word_tokenizer

from hf_gip.dataset.open import open_dataset
from hf_gip.features.text import iter_texts, text_recipe
from hf_gip.features.tokenise import tokenised


def texts(rows: list[dict[str, Any]], **options: Any) -> list[str]:
    dataset = Dataset.from_list(rows)
    return list(iter_texts(dataset, text_recipe(dataset, **options)))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": "one"}, "one"),
        ({"question": "q", "answer": "a", "source": "s"}, "q\na"),
        ({"instruction": "i", "input": "", "output": "o"}, "i\no"),
        ({"instruction": "i", "input": "x", "output": "o", "text": "all"}, "i\nx\no"),
        ({"prompt": "p", "completion": "c"}, "p\nc"),
        (
            {"prompt": [{"role": "user", "content": "p"}], "completion": [{"role": "assistant", "content": "c"}]},
            "p\nc",
        ),
        ({"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}, "u\na"),
        ({"conversations": [{"from": "human", "value": "h"}, {"from": "gpt", "value": "g"}]}, "h\ng"),
    ],
)
def test_usual_layouts_are_found(row: dict[str, Any], expected: str) -> None:
    assert texts([row]) == [expected]


def test_columns_are_joined_in_the_order_asked_for() -> None:
    assert texts([{"a": "1", "b": "2", "text": "3"}], columns=["b", "a"]) == ["2\n1"]


def test_a_template_names_its_columns_itself() -> None:
    assert texts([{"q": "why", "a": None}], template="Q: {q}\nA: {a}") == ["Q: why\nA: "]


def test_missing_values_are_empty_words() -> None:
    assert texts([{"instruction": "i", "input": None, "output": "o"}]) == ["i\no"]


def test_an_indices_mapping_and_a_format_are_respected() -> None:
    dataset = Dataset.from_dict({"text": [str(i) for i in range(2_500)]}).select([2_400, 7, 7]).with_format("torch")
    assert list(iter_texts(dataset, text_recipe(dataset))) == ["2400", "7", "7"]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            [{"a": "1"}],
            {},
            "no known text layout fits the columns ['a']: name the text columns with `columns=[…]`.",
        ),
        ([{"text": "1"}], {"columns": ["words"]}, "`columns` must name columns of the dataset ['text'], got 'words'."),
        (
            [{"text": 1}],
            {},
            "`columns` must hold text or chat messages, got column 'text' with int values: choose text columns or "
            "make one with `dataset.map`.",
        ),
        (
            [{"text": "1"}],
            {"columns": ["text"], "template": "{text}"},
            "`columns` and `template` must not both be given: the template names its columns itself.",
        ),
        (
            [{"text": "1"}],
            {"columns": ["text", "text"]},
            "`columns` must name every column once, got 'text' twice: leave one out.",
        ),
        ([{"text": "1"}], {"columns": []}, "`columns` must name at least one column, got none."),
        ([{"text": "1"}], {"template": "x"}, "`template` must name at least one column in braces, got 'x'."),
    ],
)
def test_mistakes_are_named(rows: list[dict[str, Any]], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        texts(rows, **options)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(5, "int"), ([1, 2], "list"), ([{"role": "user", "content": 5}], "int")],
)
def test_rows_of_another_kind_in_a_column_of_text_are_named(tmp_path: Path, value: Any, kind: str) -> None:
    lines = [json.dumps({"text": each}) for each in ("a b c", value)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    rows = open_dataset(str(tmp_path / "rows.jsonl"))
    message = (
        f"`columns` must hold text or chat messages, got column 'text' with {kind} values: choose text columns or "
        "make one with `dataset.map`."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        list(iter_texts(rows, text_recipe(rows)))
    with pytest.raises(ValueError, match=exactly(message)):
        tokenised(rows, word_tokenizer(1), None, 16)
    first = rows.select([0])
    assert list(iter_texts(first, text_recipe(first))) == ["a b c"]
