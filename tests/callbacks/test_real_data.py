"""On real data: the subset follows the model, and the run's folder verifies."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Dataset, disable_progress_bars
from hf_gip.callbacks import GIPSelectionCallback
from tiny_trainers import tiny_llama
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

import hf_gip


@pytest.mark.heavy
def test_a_subset_of_alpaca_towards_gsm8k_moves_and_verifies(data: Path, tmp_path: Path) -> None:
    disable_progress_bars()
    alpaca = Dataset.from_parquet(str(data / "alpaca.parquet"), cache_dir=str(tmp_path / "cache")).select(range(400))
    gsm8k = Dataset.from_parquet(str(data / "gsm8k_train.parquet"), cache_dir=str(tmp_path / "cache")).select(
        range(30)
    )
    pool = Dataset.from_dict({"text": [f"{row['instruction']} {row['output']}" for row in alpaca]})
    target = [f"{row['question']} {row['answer']}" for row in gsm8k]
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<unk>", "<pad>", "<eos>"]
    words.train_from_iterator(
        [*pool["text"], *target], trainers.WordLevelTrainer(vocab_size=2_000, special_tokens=special)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>"
    )
    args = SFTConfig(
        str(tmp_path),
        num_train_epochs=3,
        max_length=64,
        learning_rate=1e-2,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        activation_checkpointing=False,
    )
    trainer = SFTTrainer(tiny_llama(len(tokenizer)), args=args, train_dataset=pool, processing_class=tokenizer)
    trainer.add_callback(GIPSelectionCallback(trainer, 80, features="hidden_gradient", target=target))
    trainer.train()
    files = sorted((tmp_path / "gip").glob("selection_epoch_*.parquet"))
    first, second, third = (set(pq.read_table(file)["index"].to_pylist()) for file in files)
    assert {len(first), len(second), len(third)} == {80}
    assert len(first - second) > 8, "the model has moved, so have the rows"
    assert len(second - third) > 0
    assert hf_gip.verify(tmp_path)
