"""What real data taught: the defaults choose well-judged rows without losing the pool's breadth."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

import hf_gip

JUDGES = ["score_gpt4o_mini", "score_llama31_8b", "score_mistral_7b"]


def vendi(vectors: np.ndarray) -> float:
    """exp of the entropy of the eigenvalues of the mean Gram matrix: an effective number of distinct rows."""
    values = np.linalg.eigvalsh(vectors.T @ vectors / len(vectors))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def coverage(pool: np.ndarray, chosen: np.ndarray) -> float:
    """Mean over the pool of the best cosine to a chosen row."""
    best = [(pool[i : i + 4_000] @ chosen.T).max(axis=1) for i in range(0, len(pool), 4_000)]
    return float(np.concatenate(best).mean())


@pytest.mark.heavy
def test_three_judges_choose_good_rows_as_varied_as_random_ones(data: Path) -> None:
    rows = Dataset.from_parquet(str(data / "alpaca.parquet"))
    assert isinstance(rows, Dataset)
    vectors = np.load(data / "alpaca_minilm_f16.npy").astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    subset = hf_gip.gip_select(rows, 1_000, scores=JUDGES, features=torch.from_numpy(vectors))
    chosen = vectors[subset.selection.indices]
    score = np.mean([np.mean(subset[name][:]) for name in JUDGES])

    draws = [np.random.default_rng(seed).choice(len(rows), 1_000, replace=False) for seed in range(3)]
    assert score >= 3.4
    assert vendi(chosen) >= 0.97 * np.mean([vendi(vectors[draw]) for draw in draws])
    assert coverage(vectors, chosen) >= 0.97 * np.mean([coverage(vectors, vectors[draw]) for draw in draws])
    assert "filled the span; the rest refine it" in subset.selection.record["notes"][0]


def test_planted_copies_of_test_questions_are_found_and_left_out(data: Path, tmp_path: Path) -> None:
    rows = Dataset.from_parquet(str(data / "alpaca.parquet"), cache_dir=str(tmp_path))
    test = Dataset.from_parquet(str(data / "gsm8k_test.parquet"), cache_dir=str(tmp_path))
    assert isinstance(rows, Dataset)
    assert isinstance(test, Dataset)
    questions = test["question"][:300]
    copies = [text.replace("?", " ?").replace(" the ", " one ", 1).upper() for text in questions[:40]]
    pool = Dataset.from_dict({"text": rows["instruction"][:4_000] + copies})
    subset = hf_gip.gip_select(pool, 50, encoder="lexical", exclude=questions, exclude_threshold=0.85)
    found = {row: other for row, other, _ in subset.selection.record["excluded"]["pairs"]}
    assert {row - 4_000: other for row, other in found.items() if row >= 4_000} == {i: i for i in range(40)}
    assert not set(found) & set(subset.selection.indices.tolist())
    assert sum(row < 4_000 for row in found) == 0  # nothing in Alpaca copies GSM8K
