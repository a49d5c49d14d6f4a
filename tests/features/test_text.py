"""Rows become texts: layouts are found, columns and templates are obeyed, mistakes are named."""

import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
from datasets import Dataset, concatenate_datasets
from tiny_trainers import exactly, word_tokenizer

from hf_gip.dataset.loading import open_dataset
from hf_gip.features.text import iter_texts, text_recipe
from hf_gip.features.tokenization import tokenize_rows


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


ROLE = {"role": "user", "content": "about ships"}
SHAREGPT = {"from": "human", "value": "about planes"}
EXTRA = {"from": "gpt", "value": "about trains", "weight": 0.5, "markdown": None}
SYSTEM = {"role": "system", "content": None, "name": "s"}
CALL = {"function": {"name": "weather", "arguments": {"city": "Oslo", "day": 3}}, "id": "c1", "type": "function"}
CALLED = 'weather {"city": "Oslo", "day": 3}'
TOOL = {"role": "assistant", "content": None, "tool_calls": [CALL]}
OLD_CALL = {"role": "assistant", "content": "", "function_call": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
CHATS: list[tuple[list[dict[str, Any]], str]] = [
    ([ROLE], "about ships"),
    ([SHAREGPT, EXTRA], "about planes\nabout trains"),
    ([SYSTEM, ROLE], "about ships"),
    ([SHAREGPT, ROLE], "about planes\nabout ships"),  # both kinds in one row
    ([ROLE, TOOL], f"about ships\n{CALLED}"),
    ([TOOL], CALLED),
    ([OLD_CALL], 'weather {"city": "Oslo"}'),
    ([TOOL | {"content": "a moment"}], f"a moment\n{CALLED}"),
    ([], ""),
]


@pytest.mark.parametrize("name", ["messages", "conversations"])
@pytest.mark.parametrize("seed", range(6))
def test_chats_of_several_kinds_are_read_row_by_row_in_any_order(name: str, seed: int) -> None:
    order = Random(seed).sample(range(len(CHATS)), len(CHATS))
    order = order if seed else [*range(len(CHATS))][::-1]
    found = texts([{name: CHATS[place][0]} for place in order])
    assert found == [CHATS[place][1] for place in order]
    for chat, words in CHATS:  # what other rows hold changes nothing
        assert not chat or texts([{name: chat}]) == [words]


@pytest.mark.parametrize("kind", ["chunks", "shuffled", "jsonl", "prompt"])
def test_two_chat_layouts_are_read_however_the_rows_are_stored(tmp_path: Path, kind: str) -> None:
    rows = [{"messages": [ROLE]}] * 3 + [{"messages": [SHAREGPT]}] * 3
    expected = ["about ships"] * 3 + ["about planes"] * 3
    dataset = Dataset.from_list(rows)
    if kind == "chunks":
        dataset = concatenate_datasets([dataset.select(range(3, 6)), dataset.select(range(3))])
        expected = expected[::-1]
    elif kind == "shuffled":
        dataset, expected = dataset.select([5, 0, 4]), [expected[place] for place in (5, 0, 4)]
    elif kind == "jsonl":
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        dataset = open_dataset(str(tmp_path / "rows.jsonl"))
    else:
        dataset = dataset.rename_column("messages", "prompt").add_column("completion", [[ROLE]] * 6)
        expected = [f"{words}\nabout ships" for words in expected]
    assert list(iter_texts(dataset, text_recipe(dataset))) == expected


def test_both_layouts_are_chosen_from() -> None:
    chats = [[{"role": "user", "content": f"ask about ships {i}"}] for i in range(10)]
    chats += [[{"from": "human", "value": f"ask about planes {i}"}] for i in range(10)]
    for rows in (chats, chats[::-1]):
        pool = Dataset.from_list([{"conversations": chat} for chat in rows])
        subset = pool.gip_select(5, target=["ask about planes"], encoder="lexical", diversity=0.1)
        assert all("planes" in chat[0]["value"] for chat in subset["conversations"])
        assert subset.selection.record["features"]["empty_rows"] == 0


@pytest.mark.parametrize("place", [0, 1, 8])
def test_tool_calls_are_read_whichever_row_has_them(place: int) -> None:
    rows: list[dict[str, Any]] = [{"messages": [ROLE]} for _ in range(9)]
    rows[place] = {"messages": [ROLE, {"role": "assistant", "content": None, "tool_calls": [CALL]}]}
    assert texts(rows)[place] == f"about ships\n{CALLED}"


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([CALL, CALL], f"{CALLED}\n{CALLED}"),
        ([{"name": "w", "arguments": '{"a": 1}'}], 'w {"a": 1}'),
        (
            [{"name": "w", "parameters": {"b": [1, None], "a": {"z": None, "y": "é"}}}],
            'w {"a": {"y": "é"}, "b": [1, null]}',
        ),
        ([{"function": {"name": "w", "arguments": None}}], "w"),
        ([{"tool": "w", "x": 1}], '{"tool": "w", "x": 1}'),
        ('[{"name": "w"}]', '[{"name": "w"}]'),
    ],
)
def test_calls_of_every_form_become_text(calls: Any, expected: str) -> None:
    assert texts([{"messages": [{"role": "assistant", "content": None, "tool_calls": calls}]}]) == [expected]


PARTS: list[Any] = [
    {"type": "text", "text": "look"},
    {"type": "image", "image": None},
    {"type": "text", "text": "here"},
]


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ([PARTS], ["look\nhere"]),
        ([PARTS, "plain"], ["look\nhere", "plain"]),
        (["plain", PARTS], ["plain", "look\nhere"]),
        ([["one", {"type": "text", "text": "two"}]], ["one\ntwo"]),
        ([[{"type": "tool_use", "name": "w", "input": {"a": 1}}]], ['w {"a": 1}']),
        ([[{"type": "tool_result", "content": [{"type": "text", "text": "sun"}]}]], ["sun"]),
        ([{"type": "text", "text": "alone"}], ["alone"]),
    ],
)
def test_contents_in_parts_are_read_beside_strings(tmp_path: Path, contents: list[Any], expected: list[str]) -> None:
    lines = [json.dumps({"messages": [{"role": "user", "content": content}]}) for content in contents]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    rows = open_dataset(str(tmp_path / "rows.jsonl"))
    assert list(iter_texts(rows, text_recipe(rows))) == expected


def test_a_struct_column_is_one_turn_or_lists_of_turns() -> None:
    assert texts([{"prompt": ROLE, "completion": SHAREGPT}]) == ["about ships\nabout planes"]
    lists = {"from": ["human", "gpt", "gpt"], "value": ["one", None, "two"]}
    assert texts([{"conversations": lists}, {"conversations": None}]) == ["one\ntwo", ""]


def test_lists_of_texts_are_texts() -> None:
    rows = Dataset.from_list([{"q": "why", "answers": {"text": ["a", "b"], "start": [1, 2]}}]).flatten()
    assert list(iter_texts(rows, text_recipe(rows, template="{q}: {answers.text}"))) == ["why: a\nb"]


UNKNOWN = {"speaker": "a", "utterance": "hello"}


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
def test_chats_without_a_known_key_are_counted_and_refused(order: list[int]) -> None:
    kinds = [[ROLE], [UNKNOWN], [UNKNOWN | {"role": None, "content": None}]]
    rows = [{"messages": kinds[place]} for place in order]
    first = min(order.index(1), order.index(2))
    message = (
        f"2 of 3 rows, first row {first}: `columns` must hold chats whose turns have a text under 'content' or "
        "'value', got turns of 'messages' with ['speaker', 'utterance']: rename the keys with `dataset.map`, or drop "
        "such rows with `dataset.filter`."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        texts(rows)
    with pytest.raises(ValueError, match=exactly(message)):
        Dataset.from_list(rows).gip_select(1, encoder="lexical")
    with pytest.raises(ValueError, match=exactly(message.partition(": ")[2])):
        texts([{"messages": [UNKNOWN]}] * 2)


def test_a_column_is_judged_by_its_type_and_not_by_its_first_row() -> None:
    assert texts([{"text": None}, {"text": "one"}]) == ["", "one"]
    with pytest.raises(ValueError, match=r"^`columns` must hold text or chat messages, got column 'text' with int "):
        text_recipe(Dataset.from_list([{"text": None}, {"text": 3}]))


@pytest.mark.parametrize(
    ("names", "template", "expected"),
    [
        (["q", "answers.text"], "{q} {answers.text}", "0 1"),
        (["0", "1"], "{0}{1}{0}", "010"),
        (["q[0]", "q"], "{q[0]}-{q}", "0-1"),
        (["my words", "a"], "<{my words}|{a}>", "<0|1>"),
        (["a{b}", "{c}"], "{a{b}} {{c}}", "0 1"),
        (["a:b", "a", "a!r"], "{a:b}{a:>3}{a!r}", "0  12"),
        (["a"], "{a!r:>5}|{a!s}|{a:-^5}", "  '0'|0|--0--"),
        (["a"], '{{"a": "{a}"}}', '{"a": "0"}'),
        (["a.b", "a"], "{a.b}{a}", "01"),
        (["ü", "名"], "{ü}{名}", "01"),
    ],
)
def test_a_template_takes_columns_of_any_name(names: list[str], template: str, expected: str) -> None:
    row = {name: str(place) for place, name in enumerate(names)}
    assert texts([row], template=template) == [expected]
    found = text_recipe(Dataset.from_list([row | {"other": "x"}]), template=template)
    assert set(found.columns) == set(names)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{q} {answers}",
            "`template` must name columns of the dataset ['q', 'answers.text'] in braces, got 'answers'.",
        ),
        ("{}", "`template` must name columns of the dataset ['q', 'answers.text'] in braces, got ''."),
        ("{q.upper}", "`template` must name columns of the dataset ['q', 'answers.text'] in braces, got 'q.upper'."),
        ("{q[0]}", "`template` must name columns of the dataset ['q', 'answers.text'] in braces, got 'q[0]'."),
        ("{q", "`template` must have its braces in pairs, got '{q': a brace itself is doubled."),
        (
            "{q:>3",
            "`template` must format texts, got 'q:>3 unclosed' in braces: use !r, !s, !a or a width such as :>10.",
        ),
        ("{q} }", "`template` must have its braces in pairs, got '{q} }': a brace itself is doubled."),
        ("{q:d}", "`template` must format texts, got 'q:d' in braces: use !r, !s, !a or a width such as :>10."),
        ("{q!x}", "`template` must format texts, got 'q!x' in braces: use !r, !s, !a or a width such as :>10."),
    ],
)
def test_a_malformed_template_is_named(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=exactly(message)):
        texts([{"q": "1", "answers.text": "2"}], template=template)


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
        tokenize_rows(rows, word_tokenizer(1), None, 16)
    first = rows.select([0])
    assert list(iter_texts(first, text_recipe(first))) == ["a b c"]
