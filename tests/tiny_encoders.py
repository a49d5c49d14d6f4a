"""Texts of a few words, and sentence-transformers models small enough to be made in a test."""

from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]


def texts_of(n: int, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    return [f"{i} " + " ".join(random.choice(WORDS, random.integers(1, 12))) for i in range(n)]


def pool(n: int = 300) -> Dataset:
    return Dataset.from_dict({"text": texts_of(n), "other": list(range(n))})


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({"[UNK]": 0, "[PAD]": 1} | {word: i + 2 for i, word in enumerate(WORDS)}, "[UNK]"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]")


def save_model(folder: Path) -> Path:
    """A Bert of one layer, mean pooled."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=12, max_position_embeddings=64, **sizes)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    SentenceTransformer(str(folder), device="cpu").save(str(folder / "whole"))
    return folder / "whole"
