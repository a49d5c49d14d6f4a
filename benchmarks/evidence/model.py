"""A language model small enough to be fine-tuned hundreds of times: built from a config, trained once and cached."""

import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .data import Bank, Rows, cache_folder, load_bank
from .training import IGNORED, PAD, Size, Tokens, train

SMALL = Size()
LARGE = Size(vocabulary=16_384, width=512, layers=8, heads=8, prompt=160, answer=352, base_epochs=3, rate=1e-4)


@dataclass(frozen=True, slots=True)
class Setup:
    """The base model and all rows tokenized for it."""

    size: Size
    tokenizer: PreTrainedTokenizerFast
    model: LlamaForCausalLM
    rows: Tokens
    queries: dict[str, Tokens]
    reference: Tokens
    held_out: dict[str, Tokens]
    device: str

    def fresh(self) -> LlamaForCausalLM:
        """A copy of the base model."""
        return copy.deepcopy(self.model)


@cache
def load_setup(data: Path, size: Size, device: str) -> Setup:
    """Tokenizer and base model, from the cache or made now, and all rows as tokens."""
    bank = load_bank(data)
    folder = cache_folder() / f"base-{size.layers}x{size.width}-{size.vocabulary}"
    tokenizer = load_tokenizer(folder, bank, size)
    held_out = {key: encode(tokenizer, rows, size) for key, rows in bank.held_out.items()}
    return Setup(
        size=size,
        tokenizer=tokenizer,
        model=load_base(folder, tokenizer, bank, size, device),
        rows=encode(tokenizer, bank.rows, size),
        queries={key: encode(tokenizer, rows, size) for key, rows in bank.queries.items()},
        reference=encode(tokenizer, bank.reference, size),
        held_out={key: rows.select(range(min(150, len(rows)))) for key, rows in held_out.items()},
        device=device,
    )


def load_tokenizer(folder: Path, bank: Bank, size: Size) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the base rows and GSM8K and Alpaca rows of the bank."""
    if not (folder / "tokenizer.json").exists():
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=size.vocabulary, special_tokens=["<pad>", "<eos>"])
        clean = [text for text, source in zip(bank.rows.texts, bank.source.tolist(), strict=True) if source < 2]
        made.train_from_iterator(bank.base.texts + clean, trainer)
        folder.mkdir(parents=True, exist_ok=True)
        made.save(str(folder / "tokenizer.json"))
    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="<pad>", eos_token="<eos>", model_max_length=512
    )


def encode(tokenizer: PreTrainedTokenizerFast, rows: Rows, size: Size) -> Tokens:
    """The end of every prompt and the beginning of its answer. Only answer tokens have labels."""
    prompts = tokenizer([f"{prompt}\n\n" for prompt in rows.prompts])["input_ids"]
    answers = tokenizer(rows.answers)["input_ids"]
    ids, labels = [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        prompt_ids, answer_ids = prompt[-size.prompt :], [*answer, tokenizer.eos_token_id][: size.answer]
        ids.append(prompt_ids + answer_ids)
        labels.append([IGNORED] * len(prompt_ids) + answer_ids)
    return Tokens(ids, labels)


def load_base(
    folder: Path, tokenizer: PreTrainedTokenizerFast, bank: Bank, size: Size, device: str
) -> LlamaForCausalLM:
    """The model trained on all tokens of the base rows."""
    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=size.width,
            intermediate_size=3 * size.width,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            max_position_embeddings=size.prompt + size.answer,
            tie_word_embeddings=True,
            pad_token_id=PAD,
            bos_token_id=None,
            eos_token_id=tokenizer.convert_tokens_to_ids("<eos>"),
        )
        model = LlamaForCausalLM(config).to(device)  # type: ignore[arg-type]
        tokens = encode(tokenizer, bank.base, size)
        tokens = Tokens(tokens.ids, tokens.ids)
        steps = size.base_epochs * len(tokens) // size.batch
        for step, loss in enumerate(train(model, tokens, steps, size, rate=size.base_rate, cosine=True)):
            if step % 250 == 0:
                print(f"base model: step {step} of {steps}, loss {loss:.3f}", flush=True)
        model.save_pretrained(folder)
    return LlamaForCausalLM.from_pretrained(folder).to(device).eval()  # type: ignore[arg-type]
