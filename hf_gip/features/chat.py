"""Chats → texts: what the turns of one row say, and which tools they call."""

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

CONTENT = ("content", "value")  # where a turn has its text: chat messages, or ShareGPT's from/value
CALLS = ("tool_calls", "function_call")


class UnreadableChatError(ValueError):
    """A chat none of whose turns has a text under a known key."""


def value_words(value: Any, name: str) -> str:
    """What one row has in the column `name`, a text or a chat, as one text.

    Raises:
        UnreadableChatError: If it is a chat and no turn has a text.
        ValueError: If it is no text: a column of JSON may hold text in one row and a number in another.
    """
    if value is None or isinstance(value, str):
        return value or ""
    turns = _turns(value)
    if turns is None:
        raise ValueError(not_text(name, value))
    turn_words = [turn if isinstance(turn, str) else _turn_words(turn, name) for turn in turns]
    if turn_words and all(words is None for words in turn_words):
        raise UnreadableChatError(_no_content(name, [turn for turn in turns if isinstance(turn, dict)]))
    return "\n".join(words for words in turn_words if words is not None)


def _turns(value: Any) -> list[Any] | None:
    """A chat as a list of turns: as it is, from one turn, or from a struct of lists; None for what is no chat."""
    if isinstance(value, dict):
        lists = {key: each for key, each in value.items() if isinstance(each, list)}
        if not {"role", "from"} & set(lists):
            return [value]
        return [dict(zip(lists, turn, strict=True)) for turn in zip_longest(*lists.values())]
    if not isinstance(value, list) or not all(each is None or isinstance(each, dict | str) for each in value):
        return None
    return [each for each in value if each is not None]


def _turn_words(turn: Mapping[str, Any], name: str) -> str | None:
    """What one turn says and which tools it calls; None if it has neither.

    Arrow pads the keys that only other rows have with None.

    Raises:
        ValueError: If its content is no text.
    """
    text = turn.get("content")
    if text and isinstance(text, str) and not (turn.get(CALLS[0]) or turn.get(CALLS[1])):  # most turns
        return text
    calls = [turn[key] for key in CALLS if turn.get(key)]
    contents = [turn[key] for key in CONTENT if turn.get(key) is not None]
    if not contents and not calls:
        return None
    words = [_content_words(next((each for each in contents if each != ""), ""), name)]
    for each in calls:
        words += map(_call_words, each if isinstance(each, list) else [each])
    return "\n".join(part for part in words if part)


def _content_words(content: Any, name: str) -> str:
    """A content as text: a text, or a list of parts, of which images and sounds have none.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(content, str):
        return content
    if isinstance(content, dict) and (content.get("text") is not None or content.get("content") is not None):
        content = [content]
    if not isinstance(content, list):
        raise ValueError(not_text(name, content))
    words = []
    for part in content:
        if not isinstance(part, dict):
            words.append(part if isinstance(part, str) else "")
        elif (
            inner := next((part[key] for key in ("text", "content") if part.get(key) is not None), None)
        ) is not None:
            words.append(_content_words(inner, name))
        elif part.get("name") is not None:
            words.append(_call_words(part))
    return "\n".join(words)


def _call_words(call: Any) -> str:
    """A call of a tool as its name and its arguments, as JSON; whatever form it has, nothing of it is lost."""
    function = call.get("function") if isinstance(call, dict) else None
    named = function if isinstance(function, dict) else call
    if not isinstance(named, dict) or not isinstance(named.get("name"), str):
        return named if isinstance(named, str) else _as_json(named)
    arguments = next((named[key] for key in ("arguments", "input", "parameters") if named.get(key) is not None), "")
    return f"{named['name']} {arguments if isinstance(arguments, str) else _as_json(arguments)}".rstrip()


def _as_json(value: Any) -> str:
    """JSON that depends on this row alone: without what Arrow pads for other rows, in one order of keys."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items() if each is not None}
        return [plain(each) for each in value] if isinstance(value, list) else value

    return json.dumps(plain(value), ensure_ascii=False, sort_keys=True, default=str)


def not_text(name: str, value: Any) -> str:
    """What is said of a column that holds neither texts nor chats."""
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        return _no_content(name, value)
    return (
        f"`columns` must hold text or chat messages, got column {name!r} with {type(value).__name__} values: choose "
        "text columns or make one with `dataset.map`."
    )


def _no_content(name: str, turns: Sequence[Mapping[str, Any]]) -> str:
    keys = sorted({key for turn in turns for key, value in turn.items() if value is not None})
    return (
        f"`columns` must hold chats whose turns have a text under 'content' or 'value', got turns of {name!r} with "
        f"{keys}: rename the keys with `dataset.map`, or drop such rows with `dataset.filter`."
    )
