"""What a long run leaves in the datasets cache for the next call: gradients, and where it stood when it was killed."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import config, is_caching_enabled

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hf_gip.features.adam import AdamMoments
    from hf_gip.features.pace import Told
    from hf_gip.features.reader import GradientRecipe
    from hf_gip.features.store import GradientStore


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
    told: "Told | None" = None,
) -> "GradientStore":
    """Gradients of tokenised rows, from the cache or made now; under `scratch` where caching is off.

    A progress bar says what `told` says.

    Raises:
        ValueError: If caching is off and several processes share the work.
    """
    from hf_gip.features.pace import PLAIN
    from hf_gip.features.store import store_gradients
    from hf_gip.hashing import hash_json, hash_model, hash_tensors, hash_token_rows

    parts = {"model": hash_model(model), "rows": hash_token_rows(rows), "recipe": repr(recipe)}
    if scaling is not None:
        parts["scaling"] = scaling.fingerprint()
    if basis is not None:
        parts["basis"] = hash_tensors({"basis": basis})
    key = hash_json(parts)
    check_shared_cache()
    where = cache_folder("gradients", key) or scratch / key
    seen = {"scaling": scaling, "basis": basis}
    return store_gradients(where, model, rows, recipe, **seen, batch_size=batch_size, told=told or PLAIN)
