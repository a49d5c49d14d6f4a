"""Ratings over real HTTP: a stub judge that answers, dawdles, fails and talks nonsense."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset, concatenate_datasets, config
from huggingface_hub import constants
from judges import Judge

from hf_gip.dataset import llm_scoring as module
from hf_gip.dataset.llm_scoring import ChatEndpoint, score_with_llm


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(module.time, "sleep", lambda _: None)


def rows(*numbers: int) -> Dataset:
    return Dataset.from_dict({"text": [f"worth {number}" for number in numbers]})


def test_ratings_become_columns_that_select(judge: tuple[Judge, ChatEndpoint]) -> None:
    state, endpoint = judge
    rated = score_with_llm(rows(3, 9, 6, 3), endpoint)
    assert rated["helpfulness"][:] == [3.0, 9.0, 6.0, 3.0]
    assert rated["reasoning"][:] == [7.5] * 4
    assert len(state.asked) == 3  # equal rows are asked once
    assert set(state.keys) == {"Bearer secret"}
    assert "secret" not in repr(endpoint)
    subset = rated.gip_select(1, scores=["helpfulness"], quality=50.0, encoder="lexical")
    assert subset["text"][:] == ["worth 9"]


def test_bad_answers_are_missing_and_counted(judge: tuple[Judge, ChatEndpoint], capsys: pytest.CaptureFixture) -> None:
    rated = score_with_llm(rows(4, 13, 14), judge[1])
    assert rated["helpfulness"][0] == 4.0
    assert math.isnan(rated["helpfulness"][1])
    assert math.isnan(rated["helpfulness"][2])
    assert math.isnan(rated["accuracy"][2])  # true is no number
    assert rated["reasoning"][2] == 7.0
    assert (
        "2 of 3 answers could not be read in full; their scores are missing, and the same call asks"
        in capsys.readouterr().out
    )
    with pytest.raises(
        ValueError, match=r"^`judge` must answer with a JSON object of numbers, got none in 1 answers: "
    ):
        score_with_llm(rows(13), judge[1])


def test_a_busy_judge_is_asked_again_and_a_refusing_one_ends_in_one_sentence(
    judge: tuple[Judge, ChatEndpoint],
) -> None:
    state, endpoint = judge
    state.faults = [503, 429]
    assert score_with_llm(rows(2), endpoint)["helpfulness"][:] == [2.0]
    state.faults = [401]
    with pytest.raises(
        OSError, match=r"^the judge at http://127\.0\.0\.1:\d+/v1 did not answer \(.*401.*\): check "
    ) as caught:
        score_with_llm(rows(5), endpoint)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_silent_judge_times_out_and_what_it_said_is_kept(
    judge: tuple[Judge, ChatEndpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    state, endpoint = judge
    monkeypatch.setattr(module, "TIMEOUT", 0.3)
    score_with_llm(rows(2), endpoint)
    before = len(state.asked)
    state.silent.set()
    with pytest.raises(OSError, match=r"^the judge at .* did not answer \(.*\): check `url`"):
        score_with_llm(rows(3), endpoint)
    assert len(state.asked) == before + module.TRIES
    state.silent.clear()
    state.heard.set()
    monkeypatch.setattr(module, "TIMEOUT", 30.0)
    score_with_llm(rows(3), endpoint)
    assert len(state.asked) == before + module.TRIES + 1


def test_a_stopped_run_goes_on_where_it_was(
    judge: tuple[Judge, ChatEndpoint], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state, endpoint = judge
    monkeypatch.setattr(module, "BATCH", 2)
    state.faults = [0, 0, 401]  # two good answers, then a refusal
    with pytest.raises(OSError, match="ratings so far are kept"):
        score_with_llm(rows(1, 2, 3, 4), endpoint)
    kept = next((tmp_path / "cache" / "hf_gip" / "ratings").glob("*.jsonl"))
    assert len(kept.read_text().splitlines()) == 2
    with kept.open("a") as file:
        file.write('["cut sho')  # what a kill in the middle of a write leaves
    state.asked.clear()
    assert score_with_llm(rows(1, 2, 3, 4), endpoint)["helpfulness"][:] == [1.0, 2.0, 3.0, 4.0]
    assert len(state.asked) == 2


def test_a_function_is_a_judge_with_a_name() -> None:
    rated = score_with_llm(
        rows(1, 2), lambda prompts: ['{"clarity": 8}'] * len(prompts), name="eights", attributes=["clarity"]
    )
    assert rated["clarity"][:] == [8.0, 8.0]
    with pytest.raises(ValueError, match=r"^`name` must say what the judge is when it is a function, got None: "):
        score_with_llm(rows(1), lambda prompts: prompts)
    with pytest.raises(ValueError, match=r"^`attributes` must be new columns, got 'text', which exists: "):
        score_with_llm(rows(1), lambda prompts: prompts, name="n", attributes=["text"])
    with pytest.raises(
        TypeError, match=r"^`judge` must be a `ChatEndpoint`, a `LocalModel` or a function, got str\.$"
    ):
        score_with_llm(rows(1), "gpt", name="n")  # type: ignore[arg-type]
    for wrong in ([], "good", ["a", "a"]):
        with pytest.raises(ValueError, match=r"^`attributes` must be a list of different names, got "):
            score_with_llm(rows(1), lambda prompts: prompts, name="n", attributes=wrong)
    with pytest.raises(ValueError, match=r"^`dataset` must have at least one row, got 0"):
        score_with_llm(rows(), lambda prompts: prompts, name="n")
    with pytest.raises(ValueError, match=r"^`judge` must answer with a JSON object of numbers, got none in 1 answers"):
        score_with_llm(rows(1), lambda prompts: [None] * len(prompts), name="silent")  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"^`judge` must give one answer per prompt \(1\), got 0\.$"):
        score_with_llm(rows(1), lambda _: [], name="empty")


def test_offline_mode_is_named_where_it_stops_a_judge(
    judge: tuple[Judge, ChatEndpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        OSError, match=r"^the judge at \S+ cannot be asked while HF_HUB_OFFLINE is set, which stops all"
    ):
        score_with_llm(Dataset.from_dict({"text": ["row 3"]}), judge[1])
    assert judge[0].asked == []


class Worth:
    """A judge that rates a text by the number in it, where `able` says that it can, and counts what it is asked."""

    def __init__(self, able: Callable[[int], bool] = lambda _: True) -> None:
        self.able = able
        self.asked: list[int] = []

    def __call__(self, prompts: list[str]) -> list[str]:
        numbers = [int(re.search(r"worth (\d+)", prompt)[1]) for prompt in prompts]  # type: ignore[index]
        self.asked += numbers
        return [json.dumps({"h": number, "c": 5}) if self.able(number) else "no idea" for number in numbers]


def test_what_failed_is_asked_for_again_and_nothing_else() -> None:
    pool = rows(*range(1, 9))
    half, whole = Worth(lambda number: number % 2 == 0), Worth()
    first = score_with_llm(pool, half, name="j", attributes=["h"])["h"][:]
    assert [math.isnan(value) for value in first] == [True, False] * 4
    assert score_with_llm(pool, whole, name="j", attributes=["h"])["h"][:] == [float(number) for number in range(1, 9)]
    assert (sorted(half.asked), sorted(whole.asked)) == ([*range(1, 9)], [1, 3, 5, 7])
    assert score_with_llm(pool, whole, name="j", attributes=["h"])["h"][:] == [float(number) for number in range(1, 9)]
    assert len(whole.asked) == 4  # nothing is missing any more
    fails = Worth(lambda _: False)
    score_with_llm(pool, fails, name="j", attributes=["h"])
    assert fails.asked == []


def test_where_all_failed_all_are_asked_for_again() -> None:
    with pytest.raises(ValueError, match=r"^`judge` must answer with a JSON object of numbers, got none in 3 answers"):
        score_with_llm(rows(1, 2, 3), Worth(lambda _: False), name="j", attributes=["h"])
    assert score_with_llm(rows(1, 2, 3), Worth(), name="j", attributes=["h"])["h"][:] == [1.0, 2.0, 3.0]


def test_half_an_answer_is_completed_and_its_numbers_stay() -> None:
    def answers(text: str) -> Callable[[list[str]], list[str]]:
        return lambda prompts: [text] * len(prompts)

    score_with_llm(rows(1), answers('{"h": 3}'), name="j", attributes=["h", "c"])
    rated = score_with_llm(rows(1), answers('{"h": 9, "c": 4}'), name="j", attributes=["h", "c"])
    assert (rated["h"][:], rated["c"][:]) == ([3.0], [4.0])


def test_ratings_follow_the_text_and_not_the_dataset() -> None:
    judge, pool = Worth(), rows(1, 2, 3)
    score_with_llm(pool, judge, name="j", attributes=["h"])
    grown = concatenate_datasets([rows(9), pool, rows(8)]).add_column("other", [*range(5)]).shuffle(seed=1)
    rated = score_with_llm(grown, judge, name="j", attributes=["h"])
    assert rated["h"][:] == [float(text.split()[1]) for text in rated["text"]]
    assert judge.asked[:3] == [1, 2, 3]
    assert sorted(judge.asked[3:]) == [8, 9]
    score_with_llm(pool.rename_column("text", "said"), judge, name="j", attributes=["h"], columns=["said"])
    assert len(judge.asked) == 5


def test_rows_under_an_unchanged_fingerprint_are_rated_by_their_texts() -> None:
    judge = Worth()
    for number in (4, 5):
        pool = rows(number, 6)
        pool._fingerprint = "a" * 16
        assert score_with_llm(pool, judge, name="j", attributes=["h"])["h"][:] == [float(number), 6.0]
    assert judge.asked == [4, 6, 5]


def test_another_judge_or_attribute_is_another_question(monkeypatch: pytest.MonkeyPatch) -> None:
    judge, pool = Worth(), rows(1, 2)
    for name, attributes in (("j", ["h"]), ("other", ["h"]), ("j", ["c"]), ("j", ["h", "c"])):
        score_with_llm(pool, judge, name=name, attributes=attributes)
    assert judge.asked == [1, 2] * 4
    monkeypatch.setattr(module, "PROMPT", module.PROMPT.replace("You rate", "You judge"))
    score_with_llm(pool, judge, name="j", attributes=["h"])
    assert judge.asked == [1, 2] * 5


def test_a_damaged_line_is_asked_for_again(tmp_path: Path) -> None:
    judge, pool = Worth(), rows(1, 2, 3, 4, 5)
    score_with_llm(pool, judge, name="j", attributes=["h"])
    kept = next((tmp_path / "cache" / "hf_gip" / "ratings").glob("*.jsonl"))
    lines = kept.read_text().splitlines()
    lines[1:] = [lines[1][:9] + "\0", "[1, 2, 3]", json.dumps([json.loads(lines[3])[0], [3.0, 4.0]]), lines[4]]
    kept.write_text("\n".join(lines) + "\n")
    assert score_with_llm(pool, judge, name="j", attributes=["h"])["h"][:] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert judge.asked[5:] == [2, 3, 4]
