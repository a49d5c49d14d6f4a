"""Real rows, a tokenizer trained on them and a small Llama: what `spice_real.py` takes its gradients from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from hf_gip import gradient_features
from hf_gip.features.proxy import with_lora
from hf_gip.features.tokenization import RowCounts, token_batches

LENGTH, VOCABULARY, DIMS = 128, 4_096, 1024


def load_texts(folder: Path, alpaca: int, math_rows: int) -> list[str]:
    """Rows of both sources, drawn at random and mixed."""
    names = ["instruction", "input", "output"], ["question", "answer"]
    parts = []
    for name, count, columns in zip(("alpaca", "gsm8k_train"), (alpaca, math_rows), names, strict=True):
        rows: Any = Dataset.from_parquet(str(folder / f"{name}.parquet"))
        drawn = rows.shuffle(seed=0).select(range(count))
        joined = [{"text": "\n".join(str(row[name]) for name in columns if row[name])} for row in drawn]
        parts.append(Dataset.from_list(joined))
    return concatenate_datasets(parts).shuffle(seed=1)["text"][:]


def train_tokenizer(pool: list[str]) -> Tokenizer:
    """A byte-level tokenizer trained on the rows."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<s>"], show_progress=False)
    tokenizer.train_from_iterator(pool, trainer)
    return tokenizer


def tokenize(pool: list[str]) -> list[dict[str, list[int]]]:
    """The rows as tokens of a tokenizer trained on them."""
    return [{"input_ids": [0, *encoded.ids[: LENGTH - 1]]} for encoded in train_tokenizer(pool).encode_batch(pool)]


def train_model(rows: list[dict[str, list[int]]], stops: list[int]) -> Iterator[tuple[LlamaForCausalLM, list[float]]]:
    """A small Llama after each of `stops` AdamW steps on `rows`, with the losses so far."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=LENGTH, **sizes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses: list[float] = []
    drawn = torch.randint(len(rows), (stops[-1] * 16,), generator=torch.Generator().manual_seed(2)).tolist()
    for batch in token_batches(rows, drawn, 16, LENGTH, RowCounts()):
        model.train()
        loss = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if len(losses) in stops:
            yield model, losses


def lora_gradients(model: LlamaForCausalLM, rows: list[dict[str, list[int]]]) -> Tensor:
    """Gradients of the paper's LoRA layers, put on the model and taken off again."""
    with with_lora(model, "lora", 0) as lora_model:
        return gradient_features(lora_model, rows, projection_dim=DIMS, batch_size=16).features


def down_proj_gradients(model: LlamaForCausalLM, rows: list[dict[str, list[int]]]) -> Tensor:
    """Gradients of the model's own `down_proj` weights."""
    return gradient_features(model, rows, target_modules="*.down_proj", projection_dim=DIMS, batch_size=16).features


def real_gradients(folder: Path, rows: int, steps: int) -> Tensor:
    """LoRA gradients of two thirds of `rows` of Alpaca (3 in 4) and GSM8K, the model trained on the other third."""
    tokens = tokenize(load_texts(folder, rows * 3 // 4, rows - rows * 3 // 4))
    [(model, _)] = train_model(tokens[: rows // 3], [steps])
    return lora_gradients(model, tokens[rows // 3 :])
