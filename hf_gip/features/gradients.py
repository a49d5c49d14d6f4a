"""Per-example gradients of a causal language model, in batches, projected as they are made."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from datasets.utils import tqdm
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hf_gip.core.validation import brief, check_bool, check_int
from hf_gip.features.adam import AdamMoments
from hf_gip.features.per_example_gradients import GradientRecipe, PerExampleGradients
from hf_gip.features.progress import announce
from hf_gip.features.proxy import resolve_model, with_lora
from hf_gip.features.text import check_no_transform
from hf_gip.features.tokenization import RowCounts, token_batches, tokenize_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GradientFeatures:
    """One projected gradient per row that has a labeled token.

    Attributes:
        features: The gradients, (m, dims), float32, on the CPU, in the order of `rows`.
        rows: Positions of their rows among those given, ascending, (m,).
        left_out: How many rows had no labeled token.
        truncated: How many rows were longer than the context.
    """

    features: Float[Tensor, "m d"]
    rows: Int64[Tensor, " m"]
    left_out: int
    truncated: int


def gradient_features(
    model: str | Path | nn.Module,
    rows: Sequence[Any],
    *,
    target_modules: str = "lora",
    projection_dim: int | None = 1024,
    side: int | None = None,
    scaling: AdamMoments | None = None,
    normalize: bool = False,
    seed: int = 0,
    batch_size: int = 8,
    max_length: int | None = None,
) -> GradientFeatures:
    r"""Take the gradient of every row's own loss, as if it were alone in the batch, projected to `projection_dim`.

    A row's loss is the mean cross-entropy over its labeled tokens, the model in evaluation mode. Of every layer the
    forward and the backward pass leave inputs a and output gradients e; the weight's gradient for one example is
    Σ_l e_l a_lᵀ, so a batch costs one forward, one backward without weight gradients, and the products the backward
    left out: about one training step. No example is run by itself, nothing is written to `.grad`, and the model is
    left as it was.

    Gradients of all layers, as one long vector in the order of `model.named_modules()`, are projected by a seeded
    sparse sketch (`hf_gip.core.sketch`): inner products are kept in expectation, with a standard error of at most
    √2·‖x‖‖y‖/√dims. The sketch is the same on every device and rank and takes no memory but one byte per weight.

    Args:
        model: A causal language model: a Hub id, a local folder, or a live one on the device to use. A small one of
            the same family does well as a proxy. One opened by name goes to a GPU where there is one, and gets LoRA
            layers of rank 16 where `target_modules` wants some and it has none, drawn from `seed`.
        rows: Tokenized rows: mappings with `input_ids` and, where not every token counts, `labels` with −100 on those
            that do not. A `datasets.Dataset` will do; of text too, where the model is opened by name, with its own
            tokenizer and every token counting.
        target_modules: Whose gradient: `"lora"`, every active LoRA A and B (also on a quantized model);
            `"last_layer"`, the output layer's weight; `"hidden"`, not a weight but ∂loss/∂h of the last hidden
            states, summed over tokens, which needs no backward through the model; or a pattern of linear layers'
            names such as `"*.down_proj"`, their weights (not biases).
        projection_dim: Width of the projection; a gradient no wider is kept as it is. None: never project.
        side: First multiply both sides of every weight's gradient wider than this by random signs down to this width:
            far cheaper for large layers, at an error per layer of about √(2/`side`) in place of the sketch's. None:
            the exact gradient.
        scaling: Adam's moments (`adam_moments`), for the step Adam would take on the row alone, as in LESS. Needs
            the exact gradient, so no `side`.
        normalize: Divide each vector by its length, after projection.
        seed: Which projection, and which LoRA layers.
        batch_size: Rows per forward pass; rows of like length go together.
        max_length: Tokens per row at most; None: the model's context.

    Returns:
        The vectors of all rows with a labeled token, and which rows these are.

    Raises:
        TypeError: If `model` is neither a name nor a module, `rows` no sequence, or `scaling` no moments.
        ValueError: If no such model can be opened, nothing is to be had of `target_modules`, the model has no logits,
            there are no rows, a row is not tokenized, its gradient is not finite, or options are out of range or
            exclude each other.
    """
    recipe = GradientRecipe(target_modules, projection_dim, side, normalize, seed, max_length)
    check_int("batch_size", batch_size)
    check_int("max_length", max_length, optional=True)
    check_bool("normalize", normalize)
    if not hasattr(rows, "__len__") or not hasattr(rows, "__getitem__") or isinstance(rows, str | bytes | Mapping):
        raise TypeError(f"`rows` must be a dataset or a list of tokenized rows, got {brief(rows)}.")
    if not len(rows):
        raise ValueError("`rows` must hold at least one row, got none: check the split or the filter before it.")
    if scaling is not None and not isinstance(scaling, AdamMoments):
        raise TypeError(f"`scaling` must come from `hf_gip.adam_moments`, got {brief(scaling)}.")
    if isinstance(model, nn.Module):
        return _compute(model, rows, recipe, scaling, batch_size)
    opened, tokenizer = resolve_model(model, device="cuda" if torch.cuda.is_available() else "cpu").load()
    if isinstance(rows, Dataset) and "input_ids" not in rows.column_names:
        check_no_transform("rows", rows)
        tokens = tokenize_rows(rows, tokenizer, None, max_length or context_length(opened))
        rows = cast("Sequence[Any]", tokens.rows)
    with with_lora(opened, target_modules, seed) as adapted:
        return _compute(adapted, rows, recipe, scaling, batch_size)


def _compute(
    model: nn.Module, rows: Sequence[Any], recipe: GradientRecipe, scaling: AdamMoments | None, batch_size: int
) -> GradientFeatures:
    per_example, counts = PerExampleGradients(model, recipe, scaling), RowCounts()
    length = recipe.max_length or context_length(model)
    announce(
        per_example,
        rows,
        range(len(rows)),
        batch_size=batch_size,
        max_length=length,
        note=f"{4 * len(rows) * per_example.width / 1e6:,.0f} MB in memory",
    )
    features, positions = [torch.empty(0, per_example.width)], [torch.empty(0, dtype=torch.int64)]
    with tqdm(total=len(rows), unit="row", desc="Gradients") as bar:
        for batch in token_batches(rows, range(len(rows)), batch_size, length, counts):
            features.append(per_example.compute(batch))
            positions.append(batch.rows)
            bar.update(len(batch.rows))
    order = torch.cat(positions).argsort()
    if counts.left_out or counts.truncated:
        logger.warning(
            "%d rows without a labeled token, %d cut to %d tokens", counts.left_out, counts.truncated, length
        )
    return GradientFeatures(torch.cat(features)[order], torch.cat(positions)[order], counts.left_out, counts.truncated)


def context_length(model: nn.Module) -> int:
    """Tokens the model can attend to; no limit where its configuration names none."""
    config = getattr(getattr(model, "module", model), "config", None)
    return getattr(config, "max_position_embeddings", None) or 1 << 31
