"""GTP selected again, as a manifest says."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from datasets import Dataset

from hf_gip.manifest.again_spice import recorded_proxy
from hf_gip.manifest.given import check_checkpoints, check_needless, check_tasks, in_recorded_order
from hf_gip.manifest.schema import Manifest

if TYPE_CHECKING:
    from hf_gip.selection import Selection

FEATURES = ("parameters", "subspace", "dims", "adam", "seed", "max_length")


def gtp_again(manifest: Manifest, source: Dataset, given: Mapping[str, Any], *, device: str | None) -> "Selection":
    """Call `gtp_select` with the recorded arguments.

    Args:
        manifest: What was recorded.
        source: The pool.
        given: What a manifest cannot hold, by argument: `model`, `tokenizer`, `target`, `checkpoints`.
        device: Torch device.

    Returns:
        The selection made now.
    """
    from hf_gip.dataset.gtp_select import gtp_select

    k = manifest.parameters["k"]
    options = recorded_gtp_options(manifest, given)
    subset = gtp_select(source, k, **options, id_column=manifest.source.id_column, device=device)
    return getattr(subset, "selection")  # noqa: B009 — set by `gtp_select`, unknown to type checkers


def recorded_gtp_options(manifest: Manifest, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `gtp_select`, from the manifest where it holds them.

    Args:
        manifest: What was recorded.
        given: What it cannot hold, by argument: `model`, `tokenizer`, `target`, `checkpoints`.

    Raises:
        ValueError: If something must be given again, or the proxy is another than the recorded one.
    """
    recipe = manifest.recipe
    features, tasks, warm_up = recipe["features"], recipe["target"], recipe["warm_up"]
    model, tokenizer = recorded_proxy(manifest, given)
    target, folders = given.get("target"), given.get("checkpoints")
    if tasks and target is None:
        names = " and ".join(repr(task["name"]) for task in tasks)
        raise ValueError(f"`target` must be given again: the manifest names {names} and does not hold its rows.")
    if warm_up is None and folders is None:
        names = ", ".join(point["name"] for point in recipe["checkpoints"])
        raise ValueError(f"`checkpoints` must be given again: the manifest names {names} and does not hold them.")
    if tasks:
        target = in_recorded_order(tasks, target)
        check_tasks(tasks, target)
    else:
        check_needless("target", target, "the subset was chosen towards its own pool")
    if warm_up is None and folders is not None:
        check_checkpoints(recipe["checkpoints"], folders)
    else:
        check_needless("checkpoints", folders, "the subset was chosen along a warm-up run of its own")
    return {
        "model": model,
        "tokenizer": tokenizer,
        "target": target if tasks else None,
        "checkpoints": folders if warm_up is None else None,
        "rates": [point["rate"] for point in recipe["checkpoints"]] if warm_up is None else None,
        "columns": features["columns"] if "tokenizer" in features else None,  # token rows bring theirs
        "ridge": manifest.parameters["ridge"],
        **{name: features[name] for name in FEATURES},
        **(warm_up or {}),
    }
