"""GIP selected again, as a manifest says."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from datasets import Dataset

from hf_gip.manifest.given import check_encoder, check_needless, check_vectors
from hf_gip.manifest.schema import Manifest

if TYPE_CHECKING:
    from hf_gip.selection import Selection

HUB_ID = re.compile(r"[\w.\-]+/[\w.\-]+")


def gip_again(manifest: Manifest, source: Dataset, given: Mapping[str, Any], *, device: str | None) -> "Selection":
    """Call `gip_select` with the recorded arguments.

    Args:
        manifest: What was recorded.
        source: The pool.
        given: What a manifest cannot hold, by argument.
        device: Torch device.

    Returns:
        The selection made now.
    """
    from hf_gip.dataset.gip_select import gip_select

    k = manifest.parameters["k"] if (manifest.recipe.get("limits") or {}).get("budget_tokens") else manifest.k
    subset = gip_select(source, k, **recorded_options(manifest, given), device=device)
    return getattr(subset, "selection")  # noqa: B009 — set by `gip_select`, unknown to type checkers


def recorded_options(manifest: Manifest, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `gip_select`, from the manifest where it holds them; defaults as they were resolved then.

    Args:
        manifest: What was recorded.
        given: What a manifest cannot hold, by argument: `target`, `features`, `encoder`, `exclude`.
    """
    recipe, scores, excluded = manifest.recipe, manifest.recipe.get("scores"), manifest.recipe.get("excluded")
    if not excluded:
        check_needless("exclude", given.get("exclude"), "the subset was kept away from no rows")
    return {
        "objective": manifest.parameters["objective"],
        "noise": manifest.parameters["noise"],
        "scores": scores and (scores.get("weights") or scores["columns"]),
        "scores_as": scores["as"] if scores else "precision",
        "quality": scores["quality"] if scores and scores["as"] == "precision" else None,
        "whiten": recipe["queries"].get("whitened", False),
        "target_weight": recipe["queries"].get("weight"),
        "cover": (recipe.get("cover") or {}).get("columns"),
        **_limits(recipe.get("limits") or {}, given.get("include") or []),
        "id_column": manifest.source.id_column,
        "target": _vectors("target", recipe["queries"], given.get("target"), recipe["features"]),
        "exclude": excluded and _vectors("exclude", excluded, given.get("exclude"), recipe["features"]),
        "exclude_above": excluded["above"] if excluded else 0.9,
        **_features(recipe["features"], given),
    }


def _limits(told: Mapping[str, Any], picks: list[int]) -> dict[str, Any]:
    """Quotas and budget as recorded; the rows given from the start are the first of the `picks`."""
    names = ("group_column", "max_per_group", "min_per_group", "budget_tokens", "token_column")
    return {name: told.get(name) for name in names} | {"include": picks[: told.get("include", 0)] or None}


def _vectors(name: str, recipe: dict[str, Any], given: Any, features: Mapping[str, Any]) -> Any:
    if recipe["kind"] in ("pool", "texts"):
        if not isinstance(given, list | tuple) or list(given) != recipe.get("texts"):  # the same texts do no harm
            check_needless(name, given, "the manifest holds what it needs")
        return recipe.get("texts")
    value = _again(name, given, f"a {recipe['kind']}")
    check_vectors(name, recipe, value, features.get("column"))
    return value


def _features(features: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    from hf_gip.features.encoders import installed_copy

    if features["kind"] != "matrix":
        by = "their texts" if features["kind"] == "text" else "a column of theirs"
        check_needless("features", given.get("features"), f"the rows were chosen by {by}")
    if features["kind"] == "column":
        return {"features": features["column"]}
    if features["kind"] == "matrix":
        value = _again("features", given.get("features"), "a matrix")
        check_vectors("features", features, value)
        return {"features": value}
    if features["encoder"] == "lexical":
        encoder = "lexical"
    elif "revision" in features and HUB_ID.fullmatch(features["encoder"]):  # never a path out of a manifest
        encoder = f"{features['encoder']}@{features['revision']}"
    elif given.get("encoder") is None and (installed := installed_copy(features)) is not None:
        encoder = installed
    else:
        encoder = _again("encoder", given.get("encoder"), repr(features["encoder"]))
        check_encoder(features, encoder)
    texts = {"template": features["template"]} if features["template"] else {"columns": features["columns"]}
    return {**texts, "encoder": encoder, "encoder_id": features.get("encoder_id")}


def _again(name: str, value: Any, what: str) -> Any:
    """A value that the manifest only names.

    Raises:
        ValueError: If it was not given again.
    """
    if value is None:
        raise ValueError(f"`{name}` must be given again: the manifest names {what} and does not hold it.")
    return value
