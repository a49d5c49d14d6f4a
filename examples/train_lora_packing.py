"""Train LoRA adapters on packs whose rows are chosen anew every epoch, by the gradients of those adapters.

With packing an epoch is `k` packs: the best rows that fit them. Nothing is downloaded; swap in your own.
"""

import argparse

from datasets import Dataset
from hf_gip.callbacks import GIPSelectionCallback
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportPrivateImportUsage]

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", default="lora-packing-output")
out = parser.parse_args().out

pool = Dataset.from_dict({"text": [f"{a} plus {b} is {a + b}" for a in range(20) for b in range(10)]})
target = [f"{a} plus {a} is {2 * a}" for a in range(10)]

words = Tokenizer(models.WordLevel(unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
words.train_from_iterator(pool["text"], trainers.WordLevelTrainer(special_tokens=["<unk>", "<pad>", "<eos>"]))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>")
config = LlamaConfig(
    vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
)

trainer = SFTTrainer(
    model=LlamaForCausalLM(config),
    args=SFTConfig(
        output_dir=out,
        num_train_epochs=2,
        packing=True,
        max_length=32,
        learning_rate=1e-2,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        bf16=False,
    ),
    train_dataset=pool,
    processing_class=tokenizer,
    peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
)
trainer.add_callback(GIPSelectionCallback(trainer, k=8, pool=pool, features="lora_gradient", target=target))
trainer.train()
print(f"selections in {out}/gip; check them with: hf-gip verify {out}")
