"""Per-example gradients against autograd run on every example alone."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_model, tiny_rows
from tiny_trainers import tiny_llama, word_rows, word_tokenizer
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaModel

from hf_gip.core import sketch
from hf_gip.features import per_example_gradients, proxy
from hf_gip.features.adam import adam_moments
from hf_gip.features.gradients import gradient_features


def with_lora(model: nn.Module, **options) -> nn.Module:
    lora = get_peft_model(model, LoraConfig(r=3, lora_dropout=0.1, target_modules=["q_proj", "down_proj"], **options))
    for name, parameter in lora.named_parameters():
        if "lora_B" in name:  # B starts at zero, and A's gradient with it
            nn.init.normal_(parameter, std=0.1)
    return lora


def alone(model: nn.Module, rows: Sequence[dict[str, list[int]]], names: Sequence[str]) -> Tensor:
    """Gradient of each row's loss by the model's own loss function and autograd, one row at a time, no padding."""
    model.eval()
    parameters = [model.get_parameter(name) for name in names]
    before = [parameter.requires_grad for parameter in parameters]
    gradients = []
    for row in rows:
        for parameter in parameters:
            parameter.requires_grad_(True)
        loss = model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    for parameter, was in zip(parameters, before, strict=True):
        parameter.requires_grad_(was)
    return torch.stack(gradients)


def lora_names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters() if "lora_" in name]


def test_lora_gradients_are_those_of_every_row_alone() -> None:
    model, rows = with_lora(tiny_model()), tiny_rows(11)
    got = gradient_features(model, rows, projection_dim=None, batch_size=4)
    assert got.rows.tolist() == list(range(11))
    torch.testing.assert_close(got.features, alone(model, rows, lora_names(model)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pattern", ["*.down_proj", "*layers.1.self_attn.*_proj", "lm_head"])
def test_chosen_layers_gradients_are_those_of_every_row_alone(pattern: str) -> None:
    model, rows = tiny_model(), tiny_rows(7)
    got = gradient_features(model, rows, target_modules=pattern, projection_dim=None, batch_size=3)
    names = [f"{layer.name}.weight" for layer in per_example_gradients.find_layers(model, pattern)]
    torch.testing.assert_close(got.features, alone(model, rows, names), rtol=1e-4, atol=1e-6)


def test_the_last_layers_gradient_is_had_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = tiny_model(), tiny_rows(5)
    monkeypatch.setattr(per_example_gradients, "BLOCK_BYTES", 5 * 16 * 4 * 7)
    got = gradient_features(model, rows, target_modules="last_layer", projection_dim=None, batch_size=5)
    torch.testing.assert_close(got.features, alone(model, rows, ["lm_head.weight"]), rtol=1e-4, atol=1e-6)
    whole = gradient_features(model, rows, target_modules="last_layer", projection_dim=64, batch_size=5)
    expected = sketch.sketch(got.features, 64, seed=0, stream=0)
    torch.testing.assert_close(whole.features, expected, rtol=1e-4, atol=1e-6)


def test_gpt2s_transposed_weights_are_laid_out_as_stored() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=48, n_embd=8, n_layer=1, n_head=2, n_positions=32))
    rows = tiny_rows(5)
    got = gradient_features(model, rows, target_modules="*.c_fc", projection_dim=None)
    torch.testing.assert_close(
        got.features, alone(model, rows, ["transformer.h.0.mlp.c_fc.weight"]), rtol=1e-4, atol=1e-6
    )


def test_the_hidden_gradient_is_that_of_the_last_hidden_states() -> None:
    model, rows = tiny_model(), tiny_rows(6)
    got = gradient_features(model, rows, target_modules="hidden", batch_size=4)
    for row, vector in zip(rows, got.features, strict=True):
        hidden = model.model(input_ids=torch.tensor([row["input_ids"]])).last_hidden_state.detach().requires_grad_()
        logits = model.lm_head(hidden)[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(row["labels"][1:]))
        (expected,) = torch.autograd.grad(loss, hidden)
        torch.testing.assert_close(vector, expected[0].sum(dim=0), rtol=1e-4, atol=1e-6)


def test_sketched_gradients_are_sketches_of_the_exact_ones() -> None:
    model, rows = with_lora(tiny_model()), tiny_rows(4)
    exact = gradient_features(model, rows, projection_dim=None).features
    watched = per_example_gradients.find_layers(model, "lora")
    parts = exact.split([layer.shape[0] * layer.shape[1] for layer in watched], dim=1)
    expected = sum(sketch.sketch(part, 100, seed=5, stream=number) for number, part in enumerate(parts))
    got = gradient_features(model, rows, projection_dim=100, seed=5).features
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(got, gradient_features(model, rows, projection_dim=100, seed=6).features)


def test_two_sided_projections_keep_inner_products_on_average() -> None:
    model, rows = tiny_model(), tiny_rows(4)
    exact = gradient_features(model, rows, target_modules="*.down_proj", projection_dim=None).features
    gram = exact @ exact.T
    draws = torch.stack(
        [
            (found := gradient_features(model, rows, target_modules="*.down_proj", side=8, seed=seed).features)
            @ found.T
            for seed in range(120)
        ]
    )
    spread = draws.std(dim=0) / 120**0.5
    assert bool(((draws.mean(dim=0) - gram).abs() < 5 * spread).all())
    assert found.shape[1] == 2 * 8 * 8


def test_adam_scaling_is_the_step_adam_would_take_on_the_row() -> None:
    model, rows = with_lora(tiny_model()), tiny_rows(6)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, betas=(0.8, 0.95))
    for row in rows[:3]:
        model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    got = gradient_features(model, rows, projection_dim=None, scaling=adam_moments(optimizer, model)).features

    g = alone(model, rows, lora_names(model))
    states = [optimizer.state[model.get_parameter(name)] for name in lora_names(model)]
    m = torch.cat([state["exp_avg"].flatten() for state in states])
    v = torch.cat([state["exp_avg_sq"].flatten() for state in states])
    expected = (0.8 * m + 0.2 * g) / torch.sqrt(0.95 * v + 0.05 * g.square() + 1e-8)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)


def test_normalized_gradients_have_length_one() -> None:
    got = gradient_features(with_lora(tiny_model()), tiny_rows(5), normalize=True).features
    torch.testing.assert_close(got.norm(dim=1), torch.ones(5))


def test_the_batch_size_changes_nothing() -> None:
    model, rows = with_lora(tiny_model()), tiny_rows(9)
    one, many = (gradient_features(model, rows, batch_size=size).features for size in (1, 9))
    torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-6)


def test_the_model_is_left_as_it_was() -> None:
    model = with_lora(tiny_model()).train()
    before = [(name, parameter.requires_grad, parameter.grad) for name, parameter in model.named_parameters()]
    gradient_features(model, tiny_rows(3))
    assert [(name, parameter.requires_grad, parameter.grad) for name, parameter in model.named_parameters()] == before
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_rows_without_labels_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    rows = tiny_rows(4)
    rows[1]["labels"] = [-100] * len(rows[1]["labels"])
    rows[2] = {"input_ids": [5], "labels": [5]}  # nothing comes before its only token
    with caplog.at_level(logging.WARNING):
        got = gradient_features(with_lora(tiny_model()), rows)
    assert got.rows.tolist() == [0, 3]
    assert (got.left_out, got.truncated) == (2, 0)
    assert "2 rows without a labeled token" in caplog.text


def test_rows_longer_than_the_context_are_cut_and_counted() -> None:
    model = with_lora(tiny_model())
    long = {"input_ids": [i % 48 for i in range(50)]}
    got = gradient_features(model, [long], projection_dim=None)
    cut = {"input_ids": long["input_ids"][:32], "labels": long["input_ids"][:32]}
    assert (got.left_out, got.truncated) == (0, 1)
    torch.testing.assert_close(got.features, alone(model, [cut], lora_names(model)), rtol=1e-4, atol=1e-6)


def test_a_row_whose_gradient_is_not_finite_is_named() -> None:
    model, rows = with_lora(tiny_model()), tiny_rows(4)
    rows[2] = {"input_ids": [1, 2, 47]}
    for row in (0, 1, 3):
        rows[row] = {"input_ids": [token % 47 for token in rows[row]["input_ids"]]}
    with torch.no_grad():
        model.get_input_embeddings().weight[47] = torch.inf
    message = (
        "`model` must give finite gradients, got NaN or infinity in row 2: look at these rows, or load the model in "
        "bfloat16 or float32."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        gradient_features(model, rows)


class EightBit(nn.Linear):
    """A linear layer that keeps its weight in eight bits, as quantized models do."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.scale = linear.weight.abs().max().item() / 127
        self.weight = nn.Parameter((linear.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        return input @ (self.weight.to(input.dtype) * self.scale).T


def test_lora_on_quantized_weights_is_exact_and_the_weights_themselves_are_refused() -> None:
    model, rows = tiny_model(), tiny_rows(3)
    for block in model.model.layers:
        block.mlp.down_proj = EightBit(block.mlp.down_proj)
    message = (
        "`target_modules` must name layers with floating-point weights, got model.layers.0.mlp.down_proj quantized to "
        "torch.int8: take the gradients of a LoRA adapter on top of it."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        gradient_features(model, rows, target_modules="*.down_proj")
    model = with_lora(model)
    got = gradient_features(model, rows, projection_dim=None)
    torch.testing.assert_close(got.features, alone(model, rows, lora_names(model)), rtol=1e-4, atol=1e-6)


def headless() -> nn.Module:
    return LlamaModel(
        LlamaConfig(vocab_size=48, hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    )


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (
            tiny_model,
            {},
            "`model` must have LoRA layers for `target_modules='lora'`, got none: wrap it with "
            "`peft.get_peft_model`, or "
            'name layers of its own, e.g. `target_modules="*.down_proj"`.',
        ),
        (
            tiny_model,
            {"target_modules": "down_proj"},
            "`target_modules` must be lora, last_layer, hidden or a pattern of layer names, got 'down_proj', which no "
            'layer matches: look them up with `model.named_modules()`, e.g. "*.down_proj".',
        ),
        (
            tiny_model,
            {"target_modules": "*embed_tokens"},
            "`target_modules` must name linear layers, got model.embed_tokens, a Embedding.",
        ),
        (
            lambda: with_lora(tiny_model()),
            {"target_modules": "*.down_proj"},
            "`target_modules` must name linear layers, got base_model.model.model.layers.0.mlp.down_proj, a linear "
            "layer "
            'under LoRA: name the layer inside, "*.down_proj.base_layer", or take `target_modules="lora"`.',
        ),
        (
            headless,
            {"target_modules": "*.down_proj"},
            "`model` must be a causal language model with logits per token, got LlamaModel: load it with "
            "`AutoModelForCausalLM`.",
        ),
        (
            headless,
            {"target_modules": "hidden"},
            "`model` must be a causal language model with an output layer, got LlamaModel: load it with "
            "`AutoModelForCausalLM`.",
        ),
        (
            lambda: with_lora(tiny_model(), use_dora=True),
            {},
            "`model` must use plain LoRA for exact gradients, got a variant such as DoRA in "
            "base_model.model.model.layers.0.self_attn.q_proj: train the proxy without it.",
        ),
        (tiny_model, {"projection_dim": 0}, "`projection_dim` must be a whole number of at least 1 or None, got 0."),
        (
            tiny_model,
            {"projection_dim": 1.5},
            "`projection_dim` must be a whole number of at least 1 or None, got 1.5.",
        ),
        (tiny_model, {"side": -1}, "`side` must be a whole number of at least 1 or None, got -1."),
        (tiny_model, {"batch_size": 0}, "`batch_size` must be a whole number of at least 1, got 0."),
        (tiny_model, {"batch_size": None}, "`batch_size` must be a whole number of at least 1, got None."),
        (tiny_model, {"max_length": -4}, "`max_length` must be a whole number of at least 1 or None, got -4."),
    ],
)
def test_a_model_or_option_that_cannot_work_is_refused(model, options, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        gradient_features(model(), tiny_rows(2), **options)


def test_scaling_and_two_sided_projection_exclude_each_other() -> None:
    model = with_lora(tiny_model())
    optimizer = torch.optim.AdamW(model.parameters())
    message = (
        "`optimizer` must be an Adam that has taken a step on `model`, got no moments of its parameters: train a few "
        "steps first."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        adam_moments(optimizer, model)
    row = tiny_rows(1)[0]
    model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss.backward()
    optimizer.step()
    message = "`scaling` needs the exact gradient of weights: leave `side` and `target_modules='hidden'` out."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        gradient_features(model, [row], side=4, scaling=adam_moments(optimizer, model))


def test_a_row_that_is_not_tokenized_is_refused() -> None:
    message = (
        "`rows` must be tokenized, got row 0 with the columns text: it needs `input_ids` and, where only answers "
        "count, `labels`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        gradient_features(with_lora(tiny_model()), [{"text": "hello"}])


def test_no_rows_are_refused() -> None:
    message = r"^`rows` must hold at least one row, got none: check the split or the filter before it\.$"
    for rows in ([], Dataset.from_list(tiny_rows(2)).select([])):
        with pytest.raises(ValueError, match=message):
            gradient_features("nobody/has-this", rows)


@pytest.mark.parametrize(("name", "token"), [("input_ids", 48), ("input_ids", -1), ("labels", 48), ("labels", -7)])
def test_a_token_that_the_model_does_not_know_is_named(name: str, token: int) -> None:
    rows = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]} for _ in range(3)]
    rows[1][name] = [1, token, 3]
    message = (
        f"`rows` must hold tokens of the model's own vocabulary, 0 to 47, got {token} in the {name} of row 1: use the "
        "model's tokenizer."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        gradient_features(with_lora(tiny_model()), rows)


def test_a_model_in_a_folder_gives_what_the_live_one_does(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(9)
    model = tiny_llama(len(tokenizer))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    rows = [{"input_ids": tokens} for tokens in tokenizer(word_rows(9)["text"][:])["input_ids"]]
    live = gradient_features(model, rows, target_modules="*.down_proj").features
    for folder in (tmp_path, str(tmp_path)):
        torch.testing.assert_close(gradient_features(folder, rows, target_modules="*.down_proj").features, live)
    torch.testing.assert_close(gradient_features(tmp_path, word_rows(9), target_modules="*.down_proj").features, live)
    with proxy.with_lora(model, "lora", 3) as ready:
        expected = gradient_features(ready, rows, seed=3)
    torch.testing.assert_close(gradient_features(tmp_path, rows, seed=3).features, expected.features)


def test_a_model_that_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    message = (
        "`model` must be a Hub id, a local folder or a torch module, got 'nobody/has-this', which could not be opened "
        "(OSError): check the name and the connection."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        gradient_features("nobody/has-this", tiny_rows(2))
    message = f"`model` must be a folder with a saved model, got {str(tmp_path)!r} without config.json."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        gradient_features(tmp_path, tiny_rows(2))
    (tmp_path / "config.json").write_text("{}")
    message = (
        f"`model` must hold a causal language model, got {str(tmp_path)!r}, which transformers cannot open "
        f"(Unrecognized model in {tmp_path}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}.*: look at the files there, or pass a live model.$"):
        gradient_features(tmp_path, tiny_rows(2))
    with pytest.raises(TypeError, match=r"^`model` must be a Hub id, a local folder or a torch module, got int\.$"):
        gradient_features(7, tiny_rows(2))  # type: ignore[arg-type]
