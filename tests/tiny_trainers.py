"""A tiny Llama and a tokenizer trained on the spot, and a trainer that notes which rows reach its training step."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

WORDS = [f"w{number}" for number in range(120)]


def word_rows(count: int, *, least: int = 3, most: int = 12, seed: int = 0) -> Dataset:
    """Rows of random words; every row begins with its own number, so that its tokens name it."""
    generator = torch.Generator().manual_seed(seed)
    texts = []
    for row in range(count):
        size = int(torch.randint(least, most + 1, (), generator=generator))
        words = [WORDS[int(i)] for i in torch.randint(0, len(WORDS), (size,), generator=generator)]
        texts.append(" ".join([f"r{row}", *words]))
    return Dataset.from_dict({"text": texts, "uid": [f"row-{row}" for row in range(count)]})


def word_tokenizer(rows: int) -> PreTrainedTokenizerFast:
    """One token per word, one per row number below `rows`."""
    return text_tokenizer([" ".join([*WORDS, *(f"r{row}" for row in range(rows))])])


def text_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """One token per word of `texts`."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=["<unk>", "<pad>", "<eos>"]))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>", model_max_length=512
    )


def tiny_llama(vocabulary: int, seed: int = 0) -> LlamaForCausalLM:
    """Two layers of width 16, weights from `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=512,
            pad_token_id=1,
            eos_token_id=2,
            bos_token_id=None,
        )
        return LlamaForCausalLM(config)


class NotingTrainer(SFTTrainer):
    """Notes the `input_ids` that reach `training_step`, per epoch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.noted: dict[int, list[list[int]]] = {}

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        epoch = int(self.state.epoch or 0)
        tokens = inputs["input_ids"]
        kept = tokens != self.processing_class.pad_token_id
        self.noted.setdefault(epoch, []).extend(line[keep].tolist() for line, keep in zip(tokens, kept, strict=True))
        return super().training_step(model, inputs, num_items_in_batch)

    def rows_seen(self, epoch: int) -> list[int]:
        """The numbers of the rows that this epoch trained on, sorted."""
        names = self.processing_class.convert_ids_to_tokens([token for line in self.noted[epoch] for token in line])
        return sorted(int(name[1:]) for name in names if name.startswith("r"))


def make_trainer(
    output: Path | str,
    rows: Dataset,
    *,
    lora: bool = False,
    vocabulary: int | None = None,
    collator: Callable[[PreTrainedTokenizerFast], Any] | None = None,
    kind: type[NotingTrainer] = NotingTrainer,
    template: str | None = None,
    formatting_func: Callable[[dict[str, Any]], str] | None = None,
    **options: Any,
) -> NotingTrainer:
    """A trainer of the tiny model, quiet and on the CPU; `collator` makes its `data_collator` of the tokenizer."""
    tokenizer = word_tokenizer(vocabulary or len(rows))
    tokenizer.chat_template = template
    defaults = {
        "output_dir": str(output),
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 5,
        "num_train_epochs": 3,
        "learning_rate": 5e-2,
        "max_length": 16,
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "bf16": False,
        "activation_checkpointing": False,
        "seed": 7,
    }
    peft_config = None
    if lora:
        from peft import LoraConfig

        peft_config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    return kind(
        model=tiny_llama(len(tokenizer)),
        data_collator=None if collator is None else collator(tokenizer),
        args=SFTConfig(**{**defaults, **options}),
        train_dataset=rows,
        processing_class=tokenizer,
        formatting_func=formatting_func,
        peft_config=peft_config,
    )


def exactly(message: str) -> str:
    """A pattern for `pytest.raises(match=…)` that only the whole message meets."""
    return f"^{re.escape(message)}$"


def weights(model: torch.nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def largest_difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
