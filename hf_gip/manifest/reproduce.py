"""Select again from the source with the recorded parameters, and say where the results differ."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
from datasets import Dataset

from hf_gip.manifest.check_source import check_source
from hf_gip.manifest.schema import SELECTION_PATH, Manifest, read_manifest
from hf_gip.manifest.selection_file import read_selection

HUB_ID = re.compile(r"[\w.\-]+/[\w.\-]+")
SAME_OBJECTIVE = 1e-4  # relative: what float32 on another machine may cost


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A published selection beside the same selection made again.

    Attributes:
        verdict: `same picks`: the same rows in the same order, and the same objective; `same objective`: other rows
            or another order, equally good; `different`: neither.
        k: Rows published.
        common: Rows in both selections.
        first_difference: The first rank at which they differ, or None.
        published: The objective in the manifest.
        again: The objective reached now.
    """

    verdict: Literal["same picks", "same objective", "different"]
    k: int
    common: int
    first_difference: int | None
    published: float
    again: float

    @property
    def ok(self) -> bool:
        """Whether the objective was reached again."""
        return self.verdict != "different"

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        where = "" if self.first_difference is None else f", first difference at rank {self.first_difference}"
        return (
            f"{self.verdict}: {self.common:,} of {self.k:,} rows in common{where}; objective {self.again:.8g}, "
            f"published {self.published:.8g} ({self.again / self.published - 1 if self.published else 0:+.1e})"
        )


def reproduce(
    folder: str | os.PathLike[str],
    *,
    source: "Dataset | str | os.PathLike[str]",
    target: Any = None,
    features: Any = None,
    encoder: Any = None,
    exclude: Any = None,
    device: str | None = None,
) -> Reproduction:
    """Select again from the source of a saved subset, with its recorded parameters.

    Cached selections are not used; embeddings in the cache are. What the manifest cannot hold is given again: a target
    or exclusion that was a dataset or a matrix, features that were a matrix, an encoder that was an object or a
    local folder.

    Args:
        folder: A folder written by `save_subset`.
        source: The pool: a dataset, or the file or folder it was read from.
        target: The target, where the manifest only names its kind.
        features: The vectors, where the manifest only names their kind.
        encoder: The encoder, where it was no Hub id and not `"lexical"`.
        exclude: What to stay away from, where the manifest only names its kind.
        device: Torch device; a GPU where there is one unless told.

    Returns:
        What was the same and what was not, with figures; true where the objective was reached again.

    Raises:
        FileNotFoundError: If the folder holds no manifest, or the source is not there.
        ValueError: If the source is not the recorded one, or something must be given again.
    """
    root = Path(folder)
    manifest = read_manifest(root)
    if not isinstance(source, Dataset):
        from hf_gip.dataset.open import open_dataset

        kept = manifest.source
        source = open_dataset(
            os.fspath(source), split=kept.split or "train", config=kept.config, revision=kept.revision
        )
    indices = read_selection(root / SELECTION_PATH)["index"].to_pylist()
    given = {"target": target, "features": features, "encoder": encoder, "exclude": exclude}
    return reproduce_from(manifest, indices, source, given, device=device)


def reproduce_from(
    manifest: Manifest, indices: list[int], source: Dataset, given: dict[str, Any], *, device: str | None = None
) -> Reproduction:
    """Select again as `manifest` says, and compare with the published `indices`.

    Raises:
        ValueError: If the source is not the recorded one, the method is unknown, or something must be given again.
    """
    [whole, *_] = check_source(manifest, None, source)
    if whole.outcome == "failed":
        raise ValueError(f"`source` must be the recorded one: {whole.sentence}")
    if manifest.method != "gip":
        raise ValueError(f"`reproduce` selects again by gip, got a subset chosen by {manifest.method!r}.")
    import hf_gip

    try:
        options = recorded_options(manifest, given)
    except (KeyError, TypeError, AttributeError) as error:  # valid by the schema, yet not by gip
        raise ValueError(f"the manifest does not say how to select again: {error!r} is missing or wrong.") from None
    with _no_cached_selection():
        subset = hf_gip.gip_select(source, manifest.k, **options, device=device)
    selection = getattr(subset, "selection")  # noqa: B009 — set by `gip_select`, unknown to type checkers
    return compare_picks(indices, selection.indices.tolist(), manifest.objective, selection.objective)


def compare_picks(published: list[int], again: list[int], objective: float, reached: float) -> Reproduction:
    """Two selections by their rows and objectives."""
    pairs = enumerate(zip(published, again, strict=False))
    first = next((rank for rank, (one, other) in pairs if one != other), None)
    if abs(reached - objective) > SAME_OBJECTIVE * abs(objective):
        verdict = "different"
    else:
        verdict = "same picks" if first is None and len(published) == len(again) else "same objective"
    common = len(set(published) & set(again))
    return Reproduction(verdict, len(published), common, first, objective, reached)


def recorded_options(manifest: Manifest, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `gip_select`, from the manifest where it holds them; defaults as they were resolved then.

    Args:
        manifest: What was recorded.
        given: What a manifest cannot hold, by argument: `target`, `features`, `encoder`, `exclude`.
    """
    recipe, scores, excluded = manifest.recipe, manifest.recipe.get("scores"), manifest.recipe.get("excluded")
    return {
        "objective": manifest.parameters["objective"],
        "noise": manifest.parameters["noise"],
        "scores": scores and scores["columns"],
        "quality": scores and scores["quality"],
        "whiten": recipe["queries"].get("whitened", False),
        "id_column": manifest.source.id_column,
        "target": _vectors("target", recipe["queries"], given.get("target")),
        "exclude": excluded and _vectors("exclude", excluded, given.get("exclude")),
        "exclude_above": excluded["above"] if excluded else 0.9,
        **_features(recipe["features"], given),
    }


def _vectors(name: str, recipe: dict[str, Any], given: Any) -> Any:
    if recipe["kind"] == "pool":
        return None
    return recipe["texts"] if recipe["kind"] == "texts" else _again(name, given, f"a {recipe['kind']}")


def _features(features: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    if features["kind"] == "column":
        return {"features": features["column"]}
    if features["kind"] == "matrix":
        return {"features": _again("features", given.get("features"), "a matrix")}
    if features["encoder"] == "lexical":
        encoder = "lexical"
    elif "revision" in features and HUB_ID.fullmatch(features["encoder"]):  # never a path out of a manifest
        encoder = f"{features['encoder']}@{features['revision']}"
    else:
        encoder = _again("encoder", given.get("encoder"), repr(features["encoder"]))
    texts = {"template": features["template"]} if features["template"] else {"columns": features["columns"]}
    return {**texts, "encoder": encoder}


def _again(name: str, value: Any, what: str) -> Any:
    """A value that the manifest only names.

    Raises:
        ValueError: If it was not given again.
    """
    if value is None:
        raise ValueError(f"`{name}` must be given again: the manifest names {what} and does not hold it.")
    return value


@contextmanager
def _no_cached_selection() -> Iterator[None]:
    """Select in earnest; a cached selection would agree with itself."""
    was = datasets.is_caching_enabled()
    datasets.disable_caching()
    try:
        yield
    finally:
        if was:
            datasets.enable_caching()
