"""A language model small enough for any test, and rows for it."""

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 48
LORA = {"r": 3, "lora_dropout": 0.2, "target_modules": ["q_proj", "down_proj"]}


def tiny_model(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """Two layers, 16 wide, with a bias in its projections so that nothing is trivially symmetric."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 32,
            "attention_bias": True,
            "initializer_range": 0.2,
            **changes,
        }
    )
    return LlamaForCausalLM(config)


def tiny_rows(n: int, seed: int = 0) -> list[dict[str, list[int]]]:
    """Rows of 3 to 20 tokens, whose first third is a prompt without labels."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(n):
        length = int(torch.randint(3, 21, (1,), generator=generator))
        tokens = torch.randint(0, VOCABULARY, (length,), generator=generator).tolist()
        rows.append({"input_ids": tokens, "labels": [-100] * (length // 3) + tokens[length // 3 :]})
    return rows


def with_lora(model: nn.Module) -> nn.Module:
    """`model` with LoRA layers whose B is not zero, so that A has a gradient too."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        lora = get_peft_model(model, LoraConfig(**LORA))
        for name, parameter in lora.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
    return lora
