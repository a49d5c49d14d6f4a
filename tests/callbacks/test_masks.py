"""A pass reads labelled tokens only: prompts, padding and learnt prompts leave its vectors as they are."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hf_gip.callbacks import features as features_module
from hf_gip.callbacks.features import compute_features
from hf_gip.callbacks.pool import token_counts
from tiny_trainers import NotingTrainer, exactly, make_trainer, tiny_llama, word_tokenizer
from transformers import Trainer, TrainingArguments
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

ROWS = 11


@pytest.fixture(scope="module")
def pairs() -> Dataset:
    return Dataset.from_dict(
        {
            "prompt": [f"r{row}" + " w1 w2" * (row % 4) for row in range(ROWS)],
            "completion": [" w3" + f" w{row + 5}" * (row % 3) for row in range(ROWS)],
        }
    )


def plain(trainer: NotingTrainer, folder: Path) -> Trainer:
    """A plain trainer of the same model and rows."""
    args = TrainingArguments(str(folder), per_device_eval_batch_size=5, use_cpu=True, report_to=[])
    return Trainer(trainer.model, args, DataCollatorForLanguageModeling(pad_token_id=1), trainer.train_dataset)


def ready(trainer: Any) -> Any:
    trainer._prepare_for_training(1, trainer.get_train_dataloader(), None)
    return trainer


def by_definition(trainer: Any, learnt: int = 0) -> dict[str, torch.Tensor]:
    """Mean labelled state, loss, and its gradient by the states, row by row; `learnt` tokens of PEFT stand before."""
    model = trainer.model.eval()
    core = model.get_base_model() if learnt else model
    found: dict[str, list[torch.Tensor]] = {"hidden": [], "hidden_gradient": [], "loss": []}
    for row in trainer.train_dataset:
        tokens, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        kept: list[torch.Tensor] = []
        handle = core.model.register_forward_hook(lambda _, __, output, kept=kept: kept.append(output[0]))
        model(input_ids=tokens, use_cache=False)
        handle.remove()
        states = kept[0].detach()[:, learnt:].requires_grad_()
        loss = torch.nn.functional.cross_entropy(core.lm_head(states)[0, :-1], labels[1:])
        found["hidden"].append(states[0, labels != -100].mean(dim=0).detach())
        found["hidden_gradient"].append(torch.autograd.grad(loss, states)[0][0].sum(dim=0))
        found["loss"].append(loss.detach())
    return {name: torch.stack(values) for name, values in found.items()}


@pytest.mark.parametrize("small", [0, features_module.SMALL_LOGITS])
@pytest.mark.parametrize("kind", ["sft", "plain", "learnt prompt"])
def test_completions_are_read_as_the_definition_says(
    kind: str, small: int, pairs: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through TRL's tiles as through logits."""
    monkeypatch.setattr(features_module, "SMALL_LOGITS", small)
    trainer: Any = make_trainer(tmp_path, pairs)
    if kind == "plain":
        trainer = plain(trainer, tmp_path)
    if kind == "learnt prompt":
        from peft import PromptTuningConfig

        tokenizer = word_tokenizer(ROWS)
        learnt = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
        trainer = NotingTrainer(
            tiny_llama(len(tokenizer)),
            trainer.args,
            train_dataset=pairs,
            processing_class=tokenizer,
            peft_config=learnt,
        )
    trainer = ready(trainer)
    wanted = by_definition(trainer, 3 if kind == "learnt prompt" else 0)
    rows = trainer.train_dataset
    assert any(-100 in labels for labels in rows["labels"])
    families: list[Any] = ["hidden", "hidden_gradient"]
    for family in families:
        found = compute_features(trainer, rows, token_counts(rows), family, with_losses=True)
        assert found is not None
        assert found.losses is not None
        torch.testing.assert_close(found.features, wanted[family], rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(found.losses, wanted["loss"], rtol=1e-4, atol=1e-6)


def test_an_output_layer_that_peft_trains_whole_is_found(pairs: Dataset, tmp_path: Path) -> None:
    from peft import LoraConfig

    tokenizer = word_tokenizer(ROWS)
    found = []
    for saved in (None, ["lm_head"]):
        config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=saved, task_type="CAUSAL_LM")
        args = make_trainer(tmp_path, pairs).args
        trainer = ready(
            NotingTrainer(
                tiny_llama(len(tokenizer)),
                args,
                train_dataset=pairs,
                processing_class=tokenizer,
                peft_config=config,
            )
        )
        rows = trainer.train_dataset
        read = compute_features(trainer, rows, token_counts(rows), "last_layer_gradient")
        assert read is not None
        found.append(read.features)
    torch.testing.assert_close(*found)


def test_a_batch_without_a_mask_is_read_whole_and_one_without_tokens_is_refused(
    pairs: Dataset, tmp_path: Path
) -> None:
    trainer = ready(plain(make_trainer(tmp_path, pairs), tmp_path))
    rows = trainer.train_dataset.map(lambda row: {"input_ids": row["input_ids"][:3], "labels": row["labels"][:3]})
    found = []
    for names in (["input_ids"], ["input_ids", "attention_mask"], ["pixel_values"]):
        trainer.data_collator = lambda batch, names=names: dict.fromkeys(
            names, torch.tensor([row["input_ids"] for row in batch])
        )
        if names == ["pixel_values"]:
            message = (
                "Batches must hold `input_ids` for the model to be asked about rows, got ['pixel_values']: select "
                "before training with `gip_select`, or train on rows of tokens."
            )
            with pytest.raises(ValueError, match=exactly(message)):
                compute_features(trainer, rows, token_counts(rows), "hidden")
            continue
        read = compute_features(trainer, rows, token_counts(rows), "hidden")
        assert read is not None
        found.append(read.features)
    torch.testing.assert_close(*found)


def test_a_row_without_a_label_has_no_loss_and_no_gradient(pairs: Dataset, tmp_path: Path) -> None:
    trainer = ready(plain(make_trainer(tmp_path, pairs), tmp_path))
    rows = trainer.train_dataset.map(lambda row: {"labels": [-100] * len(row["labels"])})
    families: list[Any] = ["hidden", "hidden_gradient"]
    for family in families:
        found = compute_features(trainer, rows, token_counts(rows), family, with_losses=True)
        assert found is not None
        assert found.losses is not None
        assert not found.features.any()
        assert not found.losses.any()
