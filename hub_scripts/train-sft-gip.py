# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-gip[train]==0.1.0"]
#
# [tool.hf-jobs]
# flavor = "a10g-small"
# timeout = "6h"
# secrets = ["HF_TOKEN"]
# labels = { tool = "hf-gip" }
# ///
r"""Fine-tune with TRL while the training rows follow the model: `SFTTrainer` with `GIPSelectionCallback`.

Run it here, on a machine with a GPU:

    uv run train-sft-gip.py --model_name_or_path Qwen/Qwen3-0.6B --dataset_name tatsu-lab/alpaca --k 5000 \
        --output_dir alpaca-gip --num_train_epochs 3 --push_to_hub

or on the Hub's machines:

    hf jobs uv run https://huggingface.co/datasets/hf-gip/scripts/raw/main/train-sft-gip.py \
        --model_name_or_path … --k 5000

It takes every option of TRL's own `sft.py`, and `--k`, `--features`, `--target_name`. What each epoch was trained on
is in `OUTPUT_DIR/gip`: check it with `hf-gip verify OUTPUT_DIR`.
"""

# pyright: reportPrivateImportUsage=false
import sys
from dataclasses import dataclass, field

from datasets import Dataset, load_dataset
from hf_gip.callbacks import GIPSelectionCallback
from trl import (
    ModelConfig,
    ScriptArguments,
    SFTConfig,
    SFTTrainer,
    TrlParser,
    get_peft_config,
)


@dataclass
class SelectionArguments:
    """The callback's options."""

    k: int = field(default=1000, metadata={"help": "Rows in an epoch."})
    features: str = field(default="hidden", metadata={"help": "What the model says of a row."})
    target_name: str | None = field(default=None, metadata={"help": "Dataset that shows what is wanted."})
    target_split: str = field(default="train", metadata={"help": "Its split."})


def rows(name: str, config: str | None, split: str) -> Dataset:
    """One split of a dataset."""
    dataset = load_dataset(name, config, split=split)
    assert isinstance(dataset, Dataset)  # a split was named
    return dataset


if __name__ == "__main__":
    script, args, model, selection = TrlParser(
        (ScriptArguments, SFTConfig, ModelConfig, SelectionArguments)  # pyright: ignore[reportArgumentType]
    ).parse_args_and_config()
    try:
        trainer = SFTTrainer(
            model=model.model_name_or_path,
            args=args,
            train_dataset=rows(script.dataset_name, script.dataset_config, script.dataset_train_split),
            peft_config=get_peft_config(model),
        )
        target = None if selection.target_name is None else rows(selection.target_name, None, selection.target_split)
        trainer.add_callback(GIPSelectionCallback(trainer, k=selection.k, features=selection.features, target=target))
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f"train-sft-gip: {' '.join(str(error).split())}")
    trainer.train()
    trainer.save_model(args.output_dir)
    if args.push_to_hub:
        trainer.push_to_hub(dataset_name=script.dataset_name)
