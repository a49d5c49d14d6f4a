"""A language model small enough to be fine-tuned hundreds of times: made from a config, trained once, kept."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .bank import Bank, Rows, cache_folder, load_bank

IGNORED = -100
PAD = 0


@dataclass(frozen=True, slots=True)
class Size:
    """How large the model is, and how long it is trained."""

    vocabulary: int = 2_048
    width: int = 64
    layers: int = 2
    heads: int = 4
    prompt: int = 40  # tokens of a prompt, the last ones
    answer: int = 72  # tokens of an answer, the first ones
    base_epochs: int = 3
    batch: int = 16
    rate: float = 3e-4
    base_rate: float = 3e-3
    warm_up: int = 5


SMALL = Size()
LARGE = Size(vocabulary=16_384, width=512, layers=8, heads=8, prompt=160, answer=352, base_epochs=3, rate=1e-4)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids with labels on the answers, one list per row."""

    ids: list[list[int]]
    labels: list[list[int]]

    def __len__(self) -> int:
        """How many rows."""
        return len(self.ids)

    def at(self, rows: Sequence[int]) -> "Tokens":
        """Some rows."""
        return Tokens([self.ids[i] for i in rows], [self.labels[i] for i in rows])

    def batch(self, rows: Sequence[int], device: str) -> dict[str, Tensor]:
        """Rows padded on the right to the longest of them."""
        width = max(len(self.ids[i]) for i in rows)
        padded = {"input_ids": (self.ids, PAD), "labels": (self.labels, IGNORED)}
        found = {
            key: torch.tensor([lists[i] + [fill] * (width - len(lists[i])) for i in rows], device=device)
            for key, (lists, fill) in padded.items()
        }
        return found | {"attention_mask": (found["input_ids"] != PAD).long()}


@dataclass(frozen=True, slots=True)
class Setup:
    """The base model and everything tokenised for it."""

    size: Size
    tokenizer: PreTrainedTokenizerFast
    model: LlamaForCausalLM
    rows: Tokens
    queries: dict[str, Tokens]
    reference: Tokens
    judges: dict[str, Tokens]
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
    tokens = {key: encode(tokenizer, rows, size) for key, rows in bank.judges.items()}
    return Setup(
        size=size,
        tokenizer=tokenizer,
        model=load_base(folder, tokenizer, bank, size, device),
        rows=encode(tokenizer, bank.rows, size),
        queries={key: encode(tokenizer, rows, size) for key, rows in bank.queries.items()},
        reference=encode(tokenizer, bank.reference, size),
        judges={key: found.at(range(min(150, len(found)))) for key, found in tokens.items()},
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
    """The end of every prompt, the beginning of its answer; only the answer is learnt."""
    prompts = tokenizer([f"{prompt}\n\n" for prompt in rows.prompts])["input_ids"]
    answers = tokenizer(rows.answers)["input_ids"]
    ids, labels = [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        asked, said = prompt[-size.prompt :], [*answer, tokenizer.eos_token_id][: size.answer]
        ids.append(asked + said)
        labels.append([IGNORED] * len(asked) + said)
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


def order_of(n: int, steps: int, batch: int, seed: int) -> list[list[int]]:
    """The rows of every step: epoch after epoch in a new order each."""
    generator = torch.Generator().manual_seed(seed)
    rows: list[int] = []
    while len(rows) < steps * batch:
        rows += torch.randperm(n, generator=generator).tolist()
    return [rows[step * batch : (step + 1) * batch] for step in range(steps)]


def train(
    model: nn.Module,
    tokens: Tokens,
    steps: int,
    size: Size,
    *,
    seed: int = 0,
    rate: float | None = None,
    cosine: bool = False,
):
    """AdamW for so many steps after a short warm-up, as TRL's `SFTTrainer` takes them; yields each step's loss."""
    device = str(next(model.parameters()).device)
    peak = size.rate if rate is None else rate
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.0)
    model.train()
    for step, rows in enumerate(order_of(len(tokens), steps, size.batch, seed)):
        share = min(1.0, step / size.warm_up)
        if cosine:
            share *= 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = peak * share
        loss = model(**tokens.batch(rows, device), use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield float(loss.detach())
    model.eval()


@torch.no_grad()
def row_losses(model: nn.Module, tokens: Tokens, *, batch: int = 64) -> Tensor:
    """Mean loss of each row's answer tokens, and their number, (n, 2)."""
    device = str(next(model.parameters()).device)
    by_length = sorted(range(len(tokens)), key=lambda row: len(tokens.ids[row]))
    found = torch.zeros(len(tokens), 2, dtype=torch.float64)
    was_training = model.training
    model.eval()
    for start in range(0, len(tokens), batch):
        rows = by_length[start : start + batch]
        inputs = tokens.batch(rows, device)
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False).logits
        targets = inputs["labels"][:, 1:]
        losses = nn.functional.cross_entropy(
            logits[:, :-1].float().transpose(1, 2), targets, ignore_index=IGNORED, reduction="none"
        )
        counted = (targets != IGNORED).sum(dim=1)
        found[rows, 0] = (losses.sum(dim=1) / counted.clamp(min=1)).double().cpu()
        found[rows, 1] = counted.double().cpu()
    model.train(was_training)
    return found


def held_out_loss(model: nn.Module, tokens: Tokens) -> float:
    """Mean loss per answer token."""
    found = row_losses(model, tokens)
    return float((found[:, 0] * found[:, 1]).sum() / found[:, 1].sum())
