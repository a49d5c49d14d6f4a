"""SPICE selected again, as a manifest says."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from datasets import Dataset

from hf_gip.manifest.again_gip import HUB_ID
from hf_gip.manifest.schema import Manifest

if TYPE_CHECKING:
    from hf_gip.selection import Selection

PARAMETERS = ("dims", "window", "update_every", "alpha", "conflict_penalty", "stop_ratio", "fisher", "seed")


def spice_again(manifest: Manifest, source: Dataset, given: Mapping[str, Any], *, device: str | None) -> "Selection":
    """Call `spice_select` with the recorded arguments.

    Args:
        manifest: What was recorded.
        source: The pool.
        given: What a manifest cannot hold, by argument: `model`, `tokenizer`.
        device: Torch device.

    Returns:
        The selection made now.
    """
    from hf_gip.dataset.spice_select import spice_select

    options, id_column = recorded_spice_options(manifest, given), manifest.source.id_column
    subset = spice_select(source, manifest.parameters["k"], **options, id_column=id_column, device=device)
    return getattr(subset, "selection")  # noqa: B009 — set by `spice_select`, unknown to type checkers


def recorded_spice_options(manifest: Manifest, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `spice_select`, from the manifest where it holds them.

    Args:
        manifest: What was recorded.
        given: What it cannot hold, by argument: `model`, `tokenizer`.
    """
    features = manifest.recipe["features"]
    model, tokenizer = recorded_proxy(manifest, given)
    return {
        **{name: manifest.parameters[name] for name in PARAMETERS},
        "model": model,
        "tokenizer": tokenizer,
        "parameters": features["parameters"],
        "max_length": features["max_length"],
        "columns": features["columns"] if "tokenizer" in features else None,  # token rows bring theirs
    }


def recorded_proxy(manifest: Manifest, given: Mapping[str, Any]) -> tuple[Any, Any]:
    """The model whose gradients chose the rows, and the tokenizer that was given with it.

    Raises:
        ValueError: If the model must be given again, or is another than the recorded one.
    """
    from hf_gip.features.proxy import name_model

    recorded = {name: value for name, value in manifest.recipe["proxy"].items() if name != "steps"}
    model, tokenizer = given.get("model"), given.get("tokenizer")
    if model is None:
        if "revision" not in recorded or not HUB_ID.fullmatch(recorded["model"]):  # never a path out of a manifest
            raise ValueError(
                f"`model` must be given again: the manifest names {recorded['model']!r} and does not hold it."
            )
        model = f"{recorded['model']}@{recorded['revision']}"
    found = name_model(model, tokenizer).identity
    compared = found.keys() | recorded.keys()
    if "files" in found and "files" in recorded:
        compared -= {"model"}  # a folder may be called otherwise
    if differing := sorted(name for name in compared if found.get(name) != recorded.get(name)):
        raise ValueError(
            f"`model` must be the recorded proxy {recorded['model']!r}, got {found['model']!r} with other "
            f"{' and '.join(differing)}: give the model and tokenizer it was chosen with."
        )
    return model, tokenizer
