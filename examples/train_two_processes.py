"""The same on several processes: all read the pool, one selects, each trains on its share of the selection.

    accelerate launch --num_processes 2 examples/train_two_processes.py

Without GPUs: `accelerate launch --multi_gpu --num_processes 2 … --cpu` (two processes over gloo).
Nothing is downloaded; swap in your own.
"""

import argparse

from accelerate import PartialState
from datasets import Dataset
from hf_gip.callbacks import GIPSelectionCallback
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportPrivateImportUsage]

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", default="two-processes-output")
parser.add_argument("--cpu", action="store_true")
options = parser.parse_args()

pool = Dataset.from_dict({"text": [f"{a} plus {b} is {a + b}" for a in range(20) for b in range(10)]})
target = [f"{a} plus {a} is {2 * a}" for a in range(10)]

words = Tokenizer(models.WordLevel(unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
words.train_from_iterator(pool["text"], trainers.WordLevelTrainer(special_tokens=["<unk>", "<pad>", "<eos>"]))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>")
config = LlamaConfig(
    vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
)

args = SFTConfig(
    output_dir=options.out,
    num_train_epochs=2,
    per_device_train_batch_size=4,
    max_length=16,
    learning_rate=1e-2,
    report_to=[],
    save_strategy="no",
    use_cpu=options.cpu,
    bf16=False,
)
trainer = SFTTrainer(model=LlamaForCausalLM(config), args=args, train_dataset=pool, processing_class=tokenizer)
trainer.add_callback(GIPSelectionCallback(trainer, k=40, target=target))
trainer.train()
if trainer.is_world_process_zero():
    print(f"{args.world_size} process(es), selections in {options.out}/gip: hf-gip verify {options.out}")
PartialState().destroy_process_group()
