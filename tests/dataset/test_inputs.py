"""Signals besides texts: categories, weights, quotas, given rows, budgets; what each does, records and refuses."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

import hf_gip
from hf_gip.core.gip import gip
from hf_gip.core.queries import blend_target_and_pool, gram_sqrt, precision_from_scores

SOURCES = ["forum"] * 40 + ["wiki"] * 15 + ["code"] * 5


def pool() -> Dataset:
    draw = np.random.default_rng(0)
    words = ["alpha", "beta", "gamma", "delta"]
    return Dataset.from_dict(
        {
            "text": [" ".join(draw.choice(words, int(draw.integers(2, 9)))) for _ in range(60)],
            "vector": draw.standard_normal((60, 8)).astype(np.float32).tolist(),
            "source": SOURCES,
            "good": draw.integers(0, 6, 60).astype(float).tolist(),
            "kind": draw.integers(0, 6, 60).astype(float).tolist(),
            "tokens": draw.integers(5, 60, 60).tolist(),
        }
    )


def choose(k: int | None, **options: Any) -> Dataset:
    return pool().gip_select(k, features="vector", **options)


def test_covering_a_column_is_one_coordinate_a_value() -> None:
    rows = pool()
    X, order = torch.tensor(rows["vector"][:]), ["code", "forum", "wiki"]
    E = torch.tensor([[float(source == value) for value in order] for source in rows["source"][:]])
    energy, weight = X.square().sum(1).mean(), 4.0
    wide = torch.cat([X, (weight * energy).sqrt() * E], dim=1)
    asked = torch.zeros(60 + 3, 11)
    asked[:60, :8] = X
    asked[60:, 8:] = torch.eye(3) * (weight * X.square().sum() / 3).sqrt()
    got = choose(9, cover_columns={"source": weight}, noise=0.3)
    assert got.selection.indices.equal(gip(wide, asked, 9, noise=0.3).indices)
    assert got.selection.record["cover_columns"] == {"columns": {"source": 4.0}, "missing": {"source": 0}, "values": 3}
    plain = choose(9, noise=0.3)["source"][:]
    assert got["source"][:].count("code") > plain.count("code")
    found = got.selection.explain(int(got.selection.indices[0]))
    assert found.gain == pytest.approx(float(got.selection.gains[0]), rel=1e-3)
    assert {name for name, _ in found.served} <= {f"source={value}" for value in order}
    assert "source=" in str(found)


def test_a_target_shares_what_is_asked_with_the_pool() -> None:
    rows = pool()
    X, T = torch.tensor(rows["vector"][:]), torch.ones(2, 8)
    Q = blend_target_and_pool(T, X, 0.25)
    assert float(Q[:2].square().sum() / Q.square().sum()) == pytest.approx(0.25, rel=1e-5)
    assert torch.allclose(gram_sqrt(X).T @ gram_sqrt(X), (X.T @ X).double(), rtol=1e-4, atol=1e-4)
    got = choose(6, target=T.numpy(), target_weight=0.25, noise=0.3)
    assert got.selection.indices.equal(gip(X, Q, 6, noise=0.3).indices)
    assert got.selection.record["queries"]["weight"] == 0.25
    assert (
        choose(6, target=T.numpy(), target_weight=1.0, noise=0.3)["text"][:]
        == choose(6, target=T.numpy(), noise=0.3)["text"][:]
    )


def test_weights_say_how_much_each_judge_counts() -> None:
    nan = float("nan")
    scores = torch.tensor([[1.0, 4.0], [2.0, 3.0], [3.0, nan], [4.0, 1.0]])
    shares = [[1 / 8, 5 / 6], [3 / 8, 3 / 6], [5 / 8, None], [7 / 8, 1 / 6]]
    want = [(3 * a + b) / 4 if b is not None else a for a, b in shares]
    assert precision_from_scores(scores, weights=[3.0, 1.0]).tolist() == pytest.approx(want)
    heavy = choose(20, scores={"good": 50.0, "kind": 1.0}, quality=3.0)
    light = choose(20, scores={"good": 1.0, "kind": 50.0}, quality=3.0)
    assert np.mean(heavy["good"][:]) > np.mean(light["good"][:])
    assert heavy.selection.record["scores"]["weights"] == {"good": 50.0, "kind": 1.0}


def test_quotas_hold_and_are_told() -> None:
    got = choose(12, group_column="source", max_per_group=5, min_per_group={"code": 3})
    counts = {name: got["source"][:].count(name) for name in ("code", "forum", "wiki")}
    assert len(got) == 12
    assert max(counts.values()) <= 5
    assert counts["code"] >= 3
    assert got.selection.record["limits"]["groups"] == counts
    full = next(i for i in range(60) if counts[SOURCES[i]] == 5 and i not in got.selection.indices.tolist())
    assert str(got.selection.explain(full)).endswith(
        f"At the end it was not allowed: group '{SOURCES[full]}' had its 5."
    )
    with pytest.raises(ValueError, match=r"^`at` needs picks that are the same for every k, got `min_per_group`, "):
        got.selection.at(3)


def test_given_rows_come_first_as_positions_or_as_a_mask() -> None:
    rows, mask = [7, 3], np.zeros(60, bool)
    mask[rows] = True
    first = choose(8, initial_rows=rows)
    assert first.selection.indices.tolist()[:2] == rows
    assert choose(8, initial_rows=mask).selection.indices.tolist()[:2] == [3, 7]
    assert first.selection.record["limits"] == {"initial_rows": 2}
    assert set(choose(2, initial_rows=rows).selection.indices.tolist()) == set(rows)


def test_a_budget_is_kept_and_spent() -> None:
    got = choose(None, max_tokens=300, token_column="tokens")
    spent = sum(got["tokens"][:])
    left = [tokens for row, tokens in enumerate(pool()["tokens"][:]) if row not in got.selection.indices.tolist()]
    assert spent <= 300 < spent + min(left)
    assert got.selection.record["limits"]["tokens"] == spent
    assert (
        f"{len(got)} rows of at most 60: no other row fits what is left of 300 tokens."
        in got.selection.record["notes"]
    )
    words = pool().gip_select(60, encoder="lexical", max_tokens=40)
    assert sum(len(text.split()) for text in words["text"][:]) <= 40
    per_row = [np.mean(subset["tokens"][:]) for subset in (got, choose(len(got)))]
    assert per_row[0] < per_row[1]


def test_limits_travel_with_the_manifest_and_are_selected_again(tmp_path: Path) -> None:
    options = {
        "initial_rows": [9, 4],
        "group_column": "source",
        "max_per_group": 6,
        "min_per_group": {"code": 2},
        "max_tokens": 350,
        "token_column": "tokens",
        "cover_columns": {"source": 2.0},
        "scores": {"good": 2.0, "kind": 1.0},
    }
    subset = choose(15, **options)
    hf_gip.save_subset(subset, tmp_path / "saved")
    assert hf_gip.reproduce(tmp_path / "saved", source=pool()).verdict == "same picks"
    assert hf_gip.verify(tmp_path / "saved").ok


def test_excluded_rows_are_out_of_every_quota() -> None:
    vectors = np.array(pool()["vector"][:], np.float32)
    got = choose(
        10, exclude=vectors[[58, 59]], exclude_threshold=0.999, group_column="source", min_per_group={"code": 3}
    )
    assert got["source"][:].count("code") >= 3
    assert not {58, 59} & set(got.selection.indices.tolist())
    assert "It was not allowed: it copies row 0 of `exclude` (cosine 1.0)." in str(got.selection.explain(58))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 — compared whole below
        choose(
            10, exclude=vectors[[58, 59]], exclude_threshold=0.999, group_column="source", min_per_group={"code": 4}
        )
    assert str(caught.value) == (
        "`min_per_group` must not exceed the rows there are, got 4 for group 'code' of 3: 1 too many."
    )
    with pytest.raises(ValueError) as caught:  # noqa: PT011 — compared whole below
        choose(10, exclude=vectors, exclude_threshold=0.999)
    assert str(caught.value) == (
        "`exclude` must leave at least k=10 rows, got 0 of 60: raise `exclude_threshold` or lower `k`."
    )
    with pytest.raises(ValueError) as caught:  # noqa: PT011 — compared whole below
        choose(10, exclude=vectors[[58]], exclude_threshold=0.999, initial_rows=[58])
    assert str(caught.value) == (
        "`initial_rows` must keep away from `exclude`, got row 58, which copies row 0 of it (cosine 1.0): leave it "
        "out, or "
        "raise `exclude_threshold`."
    )


COLUMNS = "['text', 'vector', 'source', 'good', 'kind', 'tokens']"


@pytest.mark.parametrize(
    ("k", "options", "message"),
    [
        (
            3,
            {"max_per_group": 2},
            "`max_per_group` needs `group_column`, got None: name the column that holds the groups.",
        ),
        (
            3,
            {"group_column": "source"},
            "`group_column` is for quotas, got none: give `max_per_group` or `min_per_group` too.",
        ),
        (
            3,
            {"group_column": "nope", "max_per_group": 2},
            f"`group_column` must name a column of the dataset {COLUMNS}, got 'nope'.",
        ),
        (
            3,
            {"group_column": "good", "max_per_group": 2},
            "`group_column` column 'good' must hold strings, whole numbers or booleans, got type double.",
        ),
        (
            3,
            {"group_column": "source", "max_per_group": {"blog": 2}},
            "`max_per_group` must name groups of 'source' ('code', 'forum', 'wiki'), got 'blog'.",
        ),
        (
            3,
            {"group_column": "source", "min_per_group": -1},
            "`min_per_group` must be whole numbers of at least 0, got -1.",
        ),
        (
            3,
            {"group_column": "source", "min_per_group": 2},
            "`min_per_group` must fit into k=3, got 6 rows over 3 group(s): 3 too many; raise `k` or lower the "
            "quotas.",
        ),
        (3, {"token_column": "tokens"}, "`token_column` is for a budget, got none: give `max_tokens` too."),
        (3, {"max_tokens": 0}, "`max_tokens` must be a whole number of at least 1 or None, got 0."),
        (
            3,
            {"max_tokens": 9, "token_column": "good"},
            "`token_column` 'good' must hold whole numbers of at least 1, got type double, least value None.",
        ),
        (
            3,
            {"max_tokens": 9, "token_column": "nope"},
            f"`token_column` must name a column of the dataset {COLUMNS}, got 'nope'.",
        ),
        (
            3,
            {"max_tokens": 4, "token_column": "tokens"},
            "`max_tokens` must pay for the shortest row, 6 tokens at least, got 4: 2 too few.",
        ),
        (None, {}, "`k` must be a whole number between 1 and the number of rows (60), got None."),
        (
            3,
            {"initial_rows": [60]},
            "`initial_rows` must hold distinct rows of the pool (0 to 59), got 1 from 60 to 60.",
        ),
        (
            3,
            {"initial_rows": [True, False]},
            "`initial_rows` must have one flag per row (60) as a mask, got shape (2,).",
        ),
        (3, {"initial_rows": range(4)}, "`initial_rows` must hold at most k=3 rows, got 4, 1 too many: raise `k`."),
        (3, {"cover_columns": ["nope"]}, f"`cover_columns` must name a column of the dataset {COLUMNS}, got 'nope'."),
        (
            3,
            {"cover_columns": {"source": 0}},
            "`cover_columns` weights must be above 0 and finite, got 0 for 'source'.",
        ),
        (3, {"scores": {"good": -1.0}}, "`scores` weights must be above 0 and finite, got -1.0 for 'good'."),
        (3, {"target_weight": 0.5}, "`target_weight` weighs a target against the pool, got no `target`."),
        (
            3,
            {"target": np.ones((1, 8)), "target_weight": 0},
            "`target_weight` must be above 0 and at most 1 (the target alone), got 0.",
        ),
        (
            3,
            {"scores": ["good"], "scores_as": "queries", "cover_columns": ["source"]},
            '`cover_columns` has no meaning beside `scores_as="queries"`, where the scores are what is wanted: leave '
            "one of them out.",
        ),
    ],
)
def test_bad_input_is_one_sentence_before_any_work(
    k: int | None, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_gip.core.gip.gip", lambda *_, **__: pytest.fail("selected before checking"))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        choose(k, **options)


def test_kinds_that_do_not_fit_are_type_errors() -> None:
    for options, message in [
        ({"initial_rows": [0.5]}, "`initial_rows` must be positions of rows or a mask, got 1-d float64 values."),
        (
            {"cover_columns": "source"},
            "`cover_columns` must be a list of column names such as ['source'], got 'source'.",
        ),
    ]:
        with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
            choose(3, **options)


def test_texts_are_counted_or_a_column_is_asked_for() -> None:
    rows = pool().remove_columns("text")
    with pytest.raises(ValueError, match=r"^`max_tokens` needs texts to count, or `token_column`, a column of token "):
        rows.gip_select(3, features="vector", max_tokens=50)
