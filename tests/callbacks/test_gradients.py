"""What a pass over the rows reads of weights' gradients, and what every pass leaves behind."""

import gc
import random
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hf_gip.callbacks import GIPSelectionCallback
from hf_gip.callbacks.features import HEAD_SIDE, PROJECTION_DIM, compute_features
from hf_gip.callbacks.pool import token_counts
from tiny_trainers import NotingTrainer, exactly, make_trainer, word_rows

from hf_gip.core.sketch import rademacher, sketch

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # peft asks for it
]
FAMILIES = ["hidden", "hidden_gradient", "lora_gradient", "last_layer_gradient"]
ROWS = 17


def ready(folder: Path, **options: Any) -> NotingTrainer:
    """A LoRA trainer as it is when an epoch begins, its B no longer zero."""
    trainer = make_trainer(folder, word_rows(ROWS), lora=True, **options)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    trainer._prepare_for_training(1, trainer.get_train_dataloader(), None)
    return trainer


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> NotingTrainer:
    return ready(tmp_path_factory.mktemp("pass"))


def read(trainer: NotingTrainer, family: Any, **options: Any) -> torch.Tensor:
    rows = trainer.train_dataset
    found = compute_features(trainer, rows, token_counts(rows), family, **options)
    assert found is not None
    return found.features


def gradients_one_by_one(trainer: NotingTrainer, wanted: Callable[[str], bool]) -> list[list[torch.Tensor]]:
    """For every row, the gradients of its own mean loss by the parameters wanted; autograd, one row at a time."""
    model = trainer.model.eval()
    parameters = [parameter for name, parameter in model.named_parameters() if wanted(name)]
    found = []
    for row in trainer.train_dataset:
        tokens, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        logits = model(input_ids=tokens, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:])
        found.append(list(torch.autograd.grad(loss, parameters)))
    return found


def test_lora_gradients_are_the_rows_own(trainer: NotingTrainer) -> None:
    slopes = gradients_one_by_one(trainer, lambda name: "lora" in name)
    whole = torch.stack([torch.cat([slope.flatten() for slope in row]) for row in slopes])
    assert whole.shape[1] < PROJECTION_DIM, "so few that they are kept as they are"
    torch.testing.assert_close(read(trainer, "lora_gradient"), whole, rtol=1e-3, atol=1e-6)


def test_output_layer_gradients_are_the_rows_own_projected_by_the_seed(trainer: NotingTrainer) -> None:
    head = trainer.model.get_base_model().lm_head.weight.requires_grad_(True)
    slopes = torch.stack([row[0] for row in gradients_one_by_one(trainer, lambda name: "lm_head" in name)])
    head.requires_grad_(False)
    rows, width = head.shape
    assert rows > HEAD_SIDE > width, "one side is narrowed, the other is narrow"
    left = rademacher(rows, HEAD_SIDE, seed=~trainer.args.seed, stream=0, like=slopes)
    narrow = torch.einsum("nvh,vs->nsh", slopes, left).flatten(1)
    expected = narrow if narrow.shape[1] <= PROJECTION_DIM else sketch(narrow, PROJECTION_DIM, seed=trainer.args.seed)
    torch.testing.assert_close(read(trainer, "last_layer_gradient"), expected, rtol=1e-3, atol=1e-6)


def test_losses_come_along_with_gradients(trainer: NotingTrainer) -> None:
    rows = trainer.train_dataset
    losses = [
        compute_features(trainer, rows, token_counts(rows), family, with_losses=True).losses for family in FAMILIES
    ]
    for found in losses[1:]:
        torch.testing.assert_close(found, losses[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["lora_gradient", "last_layer_gradient"])
def test_a_run_selects_by_gradients_of_weights(family: Any, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, word_rows(ROWS), lora=True, num_train_epochs=2)
    target = word_rows(4, seed=5)["text"][:]
    trainer.add_callback(GIPSelectionCallback(trainer, 6, features=family, target=target))
    trainer.train()
    for epoch in range(2):
        table = pq.read_table(tmp_path / "gip" / f"selection_epoch_{epoch:05d}.parquet")
        assert trainer.rows_seen(epoch) == sorted(table["index"].to_pylist())


REFUSED = [
    (
        {"features": "hiddn"},
        '`features` must be "hidden" or "hidden_gradient" or "lora_gradient" or "last_layer_gradient" or "text", got '
        "'hiddn'.",
    ),
    ({"objective": "energy"}, '`objective` must be "projection" or "information", got \'energy\'.'),
    (
        {"features": "lora_gradient"},
        '`features="lora_gradient"` needs a model with LoRA adapters, got one without: give the trainer a '
        '`peft_config=`, or use `features="last_layer_gradient"`.',
    ),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_features_that_the_model_lacks_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, word_rows(ROWS))
    with pytest.raises(ValueError, match=exactly(message)):
        GIPSelectionCallback(trainer, 4, **options)


def test_gradients_of_sharded_weights_are_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, word_rows(ROWS), lora=True)
    trainer.is_fsdp_enabled = True
    message = (
        '`features="lora_gradient"` needs whole weights on every process, got a sharded model: use '
        '`features="hidden_gradient"`, or DDP.'
    )
    with pytest.raises(ValueError, match=exactly(message)):
        GIPSelectionCallback(trainer, 4, features="lora_gradient")


# What every pass leaves behind, and how it goes about.


def hooks_of(model: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_leaves_no_trace(family: Any, trainer: NotingTrainer) -> None:
    model = trainer.model.train()
    model.get_base_model().model.layers[0].eval()  # a part that is frozen on purpose
    hooks, modes = hooks_of(model), [module.training for module in model.modules()]
    wants = [parameter.requires_grad for parameter in model.parameters()]
    model(torch.tensor([[5, 6]]), labels=torch.tensor([[5, 6]])).loss.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    read(trainer, family, with_losses=True)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == wants
    kept = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(kept, gradients, strict=True))
    assert torch.is_grad_enabled()
    assert hooks_of(model) == hooks


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_that_fails_leaves_no_trace_either(family: Any, trainer: NotingTrainer) -> None:
    model = trainer.model.train()
    hooks, state = hooks_of(model), torch.get_rng_state()

    def fail(module: torch.nn.Module, args: Any, output: Any) -> None:
        torch.rand(3)
        raise RuntimeError("the machine is on fire")

    with model.get_base_model().model.layers[1].register_forward_hook(fail), pytest.raises(RuntimeError, match="fire"):
        read(trainer, family)
    assert (torch.is_grad_enabled(), model.training, hooks_of(model)) == (True, True, hooks)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_states_outlive_their_batch(family: Any, trainer: NotingTrainer) -> None:
    seen: list[weakref.ref[torch.Tensor]] = []

    def watch(module: torch.nn.Module, args: Any, output: Any) -> None:
        gc.collect()
        assert not any(earlier() is not None for earlier in seen), "states of an earlier batch are alive"
        seen.append(weakref.ref(output[0] if isinstance(output, tuple) else output))

    with trainer.model.get_base_model().model.layers[1].register_forward_hook(watch):
        read(trainer, family, with_losses=True)
    gc.collect()
    assert len(seen) == 4
    assert not any(earlier() is not None for earlier in seen)


def test_batches_hold_rows_of_like_length(trainer: NotingTrainer) -> None:
    widths: list[tuple[int, int]] = []

    def note(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        widths.append(tuple(kwargs["input_ids"].shape))

    with trainer.model.get_base_model().register_forward_pre_hook(note, with_kwargs=True):
        read(trainer, "hidden")
    longest_first = sorted(token_counts(trainer.train_dataset).tolist(), reverse=True)
    assert widths == [(5, longest_first[start]) for start in range(0, ROWS, 5)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_runs_in_the_precision_of_training(family: Any, tmp_path: Path) -> None:
    trainer = ready(tmp_path, bf16=True)
    kinds: set[torch.dtype] = set()

    def note(module: torch.nn.Module, args: Any, output: Any) -> None:
        kinds.add(output.dtype)

    with trainer.model.get_base_model().model.layers[1].mlp.up_proj.register_forward_hook(note):
        features = read(trainer, family)
    assert kinds == {torch.bfloat16}
    assert features.dtype == torch.float32
    plain = read(ready(tmp_path), family)
    assert torch.nn.functional.cosine_similarity(features, plain).min() > 0.95


def test_a_pass_shows_its_progress(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = ready(tmp_path, disable_tqdm=False)
    switch = sys.modules["datasets.utils.tqdm"]  # `datasets.utils.tqdm` is the bar itself
    monkeypatch.setattr(switch, "_hf_datasets_progress_bars_disabled", False)
    read(trainer, "hidden", name="the pool")
    assert "Reading the pool: 100%" in capsys.readouterr().err
