"""Selections and gradients kept between calls."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import config, is_caching_enabled

from hf_gip.io import save_safetensors_atomically, write_text_atomically
from hf_gip.selection import Selection

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hf_gip.features.adam import AdamMoments
    from hf_gip.features.gradient_store import GradientStore
    from hf_gip.features.per_example_gradients import GradientRecipe
    from hf_gip.features.progress import ProgressLabel


def load_selection(fingerprint: str) -> Selection | None:
    """The selection stored under `fingerprint`, or None."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = _folder(fingerprint)
    if not (folder / "record.json").exists():
        return None
    try:
        tensors = load_file(folder / "selection.safetensors")
        record: dict[str, Any] = json.loads((folder / "record.json").read_text())
        return _selection(tensors, record)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # damaged on disk: made again


def _selection(tensors: dict[str, Any], record: dict[str, Any]) -> Selection:
    curves = {name.removeprefix("curve."): tensor for name, tensor in tensors.items() if name.startswith("curve.")}
    return Selection(
        tensors["indices"], tensors["gains"], record["total"], tensors.get("weights"), record["record"], curves
    )


def store_selection(fingerprint: str, selection: Selection) -> None:
    """Keep `selection` under `fingerprint`; the record is written last, so its presence means the rest is complete."""
    folder = _folder(fingerprint)
    tensors = {"indices": selection.indices, "gains": selection.gains}
    tensors |= {f"curve.{name}": curve for name, curve in selection.curves.items()}
    if selection.weights is not None:
        tensors["weights"] = selection.weights
    tensors = {name: each.contiguous() for name, each in tensors.items()}
    save_safetensors_atomically(folder / "selection.safetensors", tensors)
    record = json.dumps({"total": selection.total, "record": dict(selection.record)})
    write_text_atomically(folder / "record.json", record)


def _folder(fingerprint: str) -> Path:
    return Path(config.HF_DATASETS_CACHE) / "hf_gip" / "selections" / fingerprint


def cache_folder(kind: str, name: str) -> Path | None:
    """Where the datasets cache keeps what is being made, or None where caching is off."""
    return Path(config.HF_DATASETS_CACHE) / "hf_gip" / kind / name if is_caching_enabled() else None


def check_shared_cache() -> None:
    """Raise unless several processes have a place to share their work in.

    Raises:
        ValueError: If caching is off.
    """
    from hf_gip.distributed import rank_and_world

    if not is_caching_enabled() and rank_and_world()[1] > 1:
        raise ValueError(
            "the datasets cache must be on where several processes share the gradients, got it disabled: "
            "call `datasets.enable_caching()`."
        )


def cached_gradients(
    model: "nn.Module",
    rows: Any,
    recipe: "GradientRecipe",
    batch_size: int,
    scratch: Path,
    *,
    scaling: "AdamMoments | None" = None,
    basis: "Tensor | None" = None,
    check_dim: int = 0,
    label: "ProgressLabel | None" = None,
) -> "GradientStore":
    """Gradients of tokenized rows, from the cache or made now; under `scratch` where caching is off.

    A progress bar shows `label`.

    Raises:
        ValueError: If caching is off and several processes share the work.
    """
    from hf_gip.features.gradient_store import store_gradients
    from hf_gip.hashing import hash_json, hash_model, hash_tensors, hash_token_rows

    parts = {"model": hash_model(model), "rows": hash_token_rows(rows), "recipe": repr(recipe)}
    if scaling is not None:
        parts["scaling"] = scaling.fingerprint()
    if basis is not None:
        parts["basis"] = hash_tensors({"basis": basis})
    if check_dim:
        parts["check_dim"] = str(check_dim)
    key = hash_json(parts)
    check_shared_cache()
    where = cache_folder("gradients", key) or scratch / key
    gradient_options: dict[str, Any] = {"scaling": scaling, "basis": basis, "check_dim": check_dim}
    return store_gradients(where, model, rows, recipe, **gradient_options, batch_size=batch_size, label=label)
