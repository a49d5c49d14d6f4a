"""A judge on this machine: its answers are the model's own, batched or not, and become ratings."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from rating_model import BAD, LAST, rater
from tiny_models import tiny_model
from tiny_trainers import tiny_llama, word_tokenizer

import hf_gip
from hf_gip.dataset import llm_scoring as module


def rows(*words: str) -> Dataset:
    return Dataset.from_dict({"text": list(words)})


def test_answers_are_those_of_the_model_alone_whatever_the_batch() -> None:
    tokenizer, model = word_tokenizer(20), tiny_llama(140)
    prompts = [" ".join(f"r{(7 * i + j) % 20}" for j in range(1 + 5 * i % 17)) for i in range(11)]
    alone = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=200, do_sample=False)
        alone.append(tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True))
    for batch_size in (1, 4, 11):
        assert hf_gip.LocalModel(model, tokenizer=tokenizer, batch_size=batch_size)(prompts) == alone


def test_a_long_prompt_is_cut_at_its_end_and_leaves_room_for_the_answer() -> None:
    tokenizer = word_tokenizer(20)
    judge = hf_gip.LocalModel(tiny_model(vocab_size=140, max_position_embeddings=32), tokenizer=tokenizer)
    words = [f"r{number % 20}" for number in range(300)]
    assert judge([" ".join(words)]) == judge([" ".join(words[:16])])
    tokenizer.chat_template = "<eos> {{ messages[0]['content'] }} <pad>"
    assert judge._tokens(" ".join(words))[-1] == tokenizer.pad_token_id
    assert len(judge._tokens(" ".join(words))) == 16


def test_ratings_come_from_a_model_in_a_folder_and_are_kept_by_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = rater()
    model.save_pretrained(tmp_path / "rater")
    tokenizer.save_pretrained(tmp_path / "rater")
    monkeypatch.setattr(module, "BATCH", 3)
    judge = hf_gip.LocalModel(str(tmp_path / "rater"), batch_size=2)
    asked: list[int] = []
    answer = hf_gip.LocalModel.__call__
    monkeypatch.setattr(hf_gip.LocalModel, "__call__", lambda *a: asked.append(len(a[1])) or answer(*a))
    rated = hf_gip.score_with_llm(rows("r3", "r7", BAD, "r1", "r3"), judge, attributes=["clarity"])
    assert rated["clarity"][:2] + rated["clarity"][3:] == [3.0, 7.0, 1.0, 3.0]
    assert math.isnan(rated["clarity"][2])
    assert "1 of 5 answers could not be read in full" in capsys.readouterr().out
    assert asked == [3, 1]  # equal rows are asked once, and every batch is kept
    same = hf_gip.LocalModel(str(tmp_path / "rater"))
    assert hf_gip.score_with_llm(rows("r3", "r6"), same, attributes=["clarity"])["clarity"][:] == [3.0, 6.0]
    assert asked == [3, 1, 1]  # the row rated before is not asked again
    with torch.no_grad():
        model.lm_head.weight[:, 3:5] = model.lm_head.weight[:, [4, 3]]
    other = hf_gip.LocalModel(model, tokenizer=tokenizer)
    assert hf_gip.score_with_llm(rows("r1", "r2"), other, attributes=["clarity"])["clarity"][:] == [2.0, 1.0]


def test_a_judge_that_learned_or_is_shown_rows_otherwise_is_another_judge() -> None:
    model, tokenizer = rater()
    judge = hf_gip.LocalModel(model, tokenizer=tokenizer)

    def rated() -> float:
        return hf_gip.score_with_llm(rows("r2"), judge, attributes=["clarity"])["clarity"][0]

    assert rated() == 2.0
    with torch.no_grad():  # the same live model after some training
        model.lm_head.weight[:, 3:5] = model.lm_head.weight[:, [4, 3]]
    assert rated() == 1.0
    named = repr(judge)
    tokenizer.chat_template = f"{LAST} r7"
    assert repr(judge) != named
    assert rated() == 7.0
    named = repr(judge)
    model.generation_config.repetition_penalty = 1.3
    assert repr(judge) != named
    assert repr(judge) == repr(hf_gip.LocalModel(model, tokenizer=tokenizer))


def test_a_live_model_is_left_as_it_was() -> None:
    model = tiny_llama(140).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    hf_gip.LocalModel(model, tokenizer=word_tokenizer(20))(["r1 r2"])
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_model_that_rates_nothing_ends_in_one_sentence() -> None:
    judge = hf_gip.LocalModel(tiny_llama(140), tokenizer=word_tokenizer(20))
    with pytest.raises(ValueError, match=r"^`judge` must answer with a JSON object of numbers, got none in 1 answers"):
        hf_gip.score_with_llm(rows("r1"), judge)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"model": "no/such-model"}, ValueError, "`model` must be a Hub id, a local folder or a torch module, got"),
        ({"model": 7}, TypeError, "`model` must be a Hub id, a local folder or a torch module, got int"),
        ({"model": tiny_model()}, ValueError, "`tokenizer` must be given with a live model, got None"),
        ({"model": "x", "batch_size": 0}, ValueError, "`batch_size` must be a whole number of at least 1, got 0"),
    ],
)
def test_mistakes_are_one_sentence(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^{message}"):
        hf_gip.LocalModel(**options)


def test_a_folder_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^`model` must come with a tokenizer, got none beside it: give `tokenizer`"):
        hf_gip.LocalModel(str(tmp_path))(["hello"])
