"""A selection made again from its manifest."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import datasets
import pyarrow as pa
from datasets import Dataset

from hf_gip.core.validation import brief
from hf_gip.manifest.schema import Manifest
from hf_gip.manifest.verify import check_source

if TYPE_CHECKING:
    from hf_gip.dataset.options import GtpOptions
    from hf_gip.selection import Selection


SHOWN = 12  # hex digits of a hash
WHAT = {
    "target": "the rows that the subset was chosen towards",
    "exclude": "the rows that the subset was kept away from",
    "encoder": "the files that the subset was chosen with",
    "features": "the vectors that the subset was chosen by",
    "checkpoints": "the folders that the subset was chosen along",
}

TAKES = {  # method: what it may need again
    "gip": ("target", "features", "encoder", "exclude"),
    "spice": ("model", "tokenizer"),
    "gtp": ("target", "model", "tokenizer", "checkpoints"),
}


def check_taken(method: str, given: Mapping[str, Any]) -> None:
    """Raise if something is given again that the method never had."""
    known = {name for names in TAKES.values() for name in names}
    for name in sorted(known - set(TAKES.get(method, known))):
        check_needless(name, given.get(name), f"a subset chosen by {method} has none")


def check_needless(name: str, value: Any, held: str) -> None:
    """Raise if something is given again that cannot count.

    Args:
        name: The argument.
        value: What was given again.
        held: Why it cannot.

    Raises:
        ValueError: If there is a value.
    """
    if value is not None:
        got = brief(value) if isinstance(value, str | list) else type(value).__name__
        raise ValueError(f"`{name}` must be left out, got {got}: {held}.")


def in_recorded_order(recorded: Sequence[Mapping[str, Any]], target: Any) -> Any:
    """Subtasks given under the recorded names in the order recorded; anything else as it is."""
    names = [task["name"] for task in recorded]
    if isinstance(target, Mapping) and set(target) == set(names):
        return {name: target[name] for name in names}
    return target


def check_vectors(name: str, recipe: Mapping[str, Any], given: Any, column: str | None = None) -> None:
    """Raise unless `given` is what GIP's recipe names; one without a hash, as older versions wrote, names nothing.

    Args:
        name: The argument.
        recipe: What was recorded of it.
        given: What was given again.
        column: The column whose vectors were read, where it was a dataset with such.

    Raises:
        ValueError: If it is something else.
    """
    recorded = recipe.get("given_sha256")
    if recorded is None and recipe["kind"] == "matrix" and not recipe.get("whitened"):
        recorded = recipe.get("sha256")  # the numbers themselves, also in older manifests
    if recorded is None:
        return
    from hf_gip.dataset.inputs import as_matrix
    from hf_gip.hashing import hash_array

    found = None
    if isinstance(given, Dataset) and recipe["kind"] == "dataset":
        found = (
            _vectors_digest(given, column) if recipe.get("columns") is None else _rows_digest(given, recipe["columns"])
        )
    elif recipe["kind"] == "matrix" and not isinstance(given, Dataset):
        matrix = as_matrix(name, given, "a matrix, as it was")
        typed = (matrix, matrix.float(), matrix.double())  # datasets and lists change the type
        alike = (hash_array(each) for each in typed)
        found = next((each for each in alike if each == recorded), hash_array(matrix))
    _same(name, recorded, found)


def check_tasks(recorded: Sequence[Mapping[str, Any]], target: Any) -> None:
    """Raise unless `target` holds the rows of the recorded subtasks, in their order.

    Raises:
        ValueError: If it holds others.
    """
    from hf_gip.dataset.gradient_trajectories import subtasks_of

    found = subtasks_of(target)
    if len(found) != len(recorded):
        names = ", ".join(repr(task["name"]) for task in recorded)
        raise ValueError(f"`target` must hold the {len(recorded)} subtask(s) {names}, got {len(found)}.")
    for task, rows in zip(recorded, found.values(), strict=True):
        if task.get("sha256") is not None:
            _same("target", task["sha256"], _rows_digest(rows, task["columns"]))


def check_checkpoints(recorded: Sequence[Mapping[str, Any]], folders: Sequence[Any]) -> None:
    """Raise unless `folders` hold the recorded checkpoints, in their order; what is no folder is refused later.

    Raises:
        TypeError: If it is a single one.
        ValueError: If they hold others.
    """
    from hf_gip.hashing import hash_folder

    if isinstance(folders, str | Path):
        raise TypeError(f"`checkpoints` must be a list of folders, got {str(folders)!r}.")
    if len(recorded) != len(folders):
        raise ValueError(f"`checkpoints` must be the {len(recorded)} recorded folder(s), got {len(folders)}.")
    for point, folder in zip(recorded, folders, strict=True):
        if point.get("sha256") is not None and Path(folder).is_dir():
            _same("checkpoints", point["sha256"], hash_folder(Path(folder)), f" in {Path(folder).name!r}")


def check_encoder(recipe: Mapping[str, Any], encoder: Any) -> None:
    """Raise unless a name given as `encoder`, where it was a folder, is one that holds the recorded files.

    Raises:
        ValueError: If it holds others, or is no folder.
    """
    from hf_gip.hashing import hash_folder

    if recipe.get("files") is not None and isinstance(encoder, str):
        if not Path(encoder).expanduser().is_dir():
            raise ValueError(
                f"`encoder` must be the folder that the subset was chosen with, got {encoder!r}: name it."
            )
        _same("encoder", recipe["files"], hash_folder(Path(encoder).expanduser()))


def _vectors_digest(rows: Dataset, column: str | None) -> str | None:
    from hf_gip.dataset.columns import read_vectors
    from hf_gip.hashing import hash_array

    return hash_array(read_vectors(rows, column)) if column in rows.column_names else None


def _rows_digest(rows: Dataset, columns: Sequence[str]) -> str | None:
    from hf_gip.hashing import rows_digest

    return rows_digest(rows, columns) if set(columns) <= set(rows.column_names) else None


def _same(name: str, recorded: str, found: str | None, which: str = "") -> None:
    """Raise unless the hashes are equal.

    Raises:
        ValueError: If they are not.
    """
    if found != recorded:
        got = "of another kind" if found is None else f"(hash {found[:SHOWN]}…)"
        raise ValueError(
            f"`{name}` must be {WHAT[name]}, got others{which} {got}: give those of hash {recorded[:SHOWN]}…."
        )


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

    k = manifest.parameters["k"] if (manifest.recipe.get("limits") or {}).get("max_tokens") else manifest.k
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
        "cover_columns": (recipe.get("cover_columns") or {}).get("columns"),
        **_limits(recipe.get("limits") or {}, given.get("initial_rows") or []),
        "id_column": manifest.source.id_column,
        "target": _vectors("target", recipe["queries"], given.get("target"), recipe["features"]),
        "exclude": excluded and _vectors("exclude", excluded, given.get("exclude"), recipe["features"]),
        "exclude_threshold": excluded["above"] if excluded else 0.9,
        **_features(recipe["features"], given),
    }


def _limits(told: Mapping[str, Any], picks: list[int]) -> dict[str, Any]:
    """Quotas and budget as recorded; the rows given from the start are the first of the `picks`."""
    names = ("group_column", "max_per_group", "min_per_group", "max_tokens", "token_column")
    return {name: told.get(name) for name in names} | {"initial_rows": picks[: told.get("initial_rows", 0)] or None}


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
    from hf_gip.dataset.options import SpiceOptions
    from hf_gip.dataset.spice import spice_select

    model, tokenizer = recorded_proxy(manifest, given)
    id_column = manifest.source.id_column
    options = SpiceOptions.from_record(manifest.parameters, manifest.recipe, id_column=id_column, device=device)
    subset = spice_select(source, manifest.parameters["k"], model=model, tokenizer=tokenizer, **vars(options))
    return getattr(subset, "selection")  # noqa: B009 — set by `spice_select`, unknown to type checkers


def recorded_proxy(manifest: Manifest, given: Mapping[str, Any]) -> tuple[Any, Any]:
    """The model whose gradients chose the rows, and the tokenizer that was given with it.

    Raises:
        ValueError: If the model must be given again, or is another than the recorded one.
    """
    from hf_gip.features.proxy import resolve_model

    recorded = {name: value for name, value in manifest.recipe["proxy"].items() if name != "steps"}
    model, tokenizer = given.get("model"), given.get("tokenizer")
    if model is None:
        if "revision" not in recorded or not HUB_ID.fullmatch(recorded["model"]):  # never a path out of a manifest
            raise ValueError(
                f"`model` must be given again: the manifest names {recorded['model']!r} and does not hold it."
            )
        model = f"{recorded['model']}@{recorded['revision']}"
    found = resolve_model(model, tokenizer).identity
    compared = found.keys() | recorded.keys()
    if "files" in found and "files" in recorded:
        compared -= {"model"}  # a folder may be called otherwise
    if differing := sorted(name for name in compared if found.get(name) != recorded.get(name)):
        raise ValueError(
            f"`model` must be the recorded proxy {recorded['model']!r}, got {found['model']!r} with other "
            f"{' and '.join(differing)}: give the model and tokenizer it was chosen with."
        )
    return model, tokenizer


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
    from hf_gip.dataset.gtp import gtp_select

    model, tokenizer, target, options = recorded_gtp_call(manifest, given, device=device)
    inputs: dict[str, Any] = {"model": model, "tokenizer": tokenizer, "target": target}
    subset = gtp_select(source, manifest.parameters["k"], **inputs, **vars(options))
    return getattr(subset, "selection")  # noqa: B009 — set by `gtp_select`, unknown to type checkers


def recorded_gtp_call(
    manifest: Manifest, given: Mapping[str, Any], *, device: str | None = None
) -> "tuple[Any, Any, Any, GtpOptions]":
    """Model, tokenizer, target and options of a recorded `gtp_select`, from the manifest where it holds them.

    Args:
        manifest: What was recorded.
        given: What it cannot hold, by argument: `model`, `tokenizer`, `target`, `checkpoints`.
        device: Torch device.

    Raises:
        ValueError: If something must be given again, or the proxy is another than the recorded one.
    """
    from hf_gip.dataset.options import GtpOptions

    recipe = manifest.recipe
    tasks, warm_up = recipe["target"], recipe["warm_up"]
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
    id_column = manifest.source.id_column
    options = GtpOptions.from_record(
        manifest.parameters, recipe, checkpoints=folders, id_column=id_column, device=device
    )
    return model, tokenizer, target, options


SELECT_AGAIN = {
    "gip": gip_again,
    "spice": spice_again,
    "gtp": gtp_again,
}  # method: selects again as the manifest says, in a file of its own
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
        not_covered: What could not be compared with the manifest.
    """

    verdict: Literal["same picks", "same objective", "different"]
    k: int
    common: int
    first_difference: int | None
    published: float
    again: float
    not_covered: tuple[str, ...] = ()

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
            + "".join(f"\n  not covered: {part}" for part in self.not_covered)
        )


def reproduce_from(
    manifest: Manifest, picks: pa.Table, source: Dataset, given: dict[str, Any], *, device: str | None = None
) -> Reproduction:
    """Select again as `manifest` says, and compare with the published `picks`.

    Raises:
        ValueError: If the source is not the recorded one, the method is unknown, or something must be given again or
            left out.
    """
    checks = check_source(manifest, picks, source)
    if failed := [check.sentence for check in checks if check.outcome == "failed"]:
        raise ValueError(f"`source` must be the recorded one: {failed[0]}")
    indices = picks["index"].to_pylist()
    select_again = SELECT_AGAIN.get(manifest.method)
    if select_again is None:
        raise ValueError(
            f"`reproduce` selects again by {', '.join(SELECT_AGAIN)}, got a subset chosen by {manifest.method!r}."
        )
    check_taken(manifest.method, given)
    try:
        with _no_cached_selection():
            selection = select_again(manifest, source, {**given, "initial_rows": indices}, device=device)
    except (KeyError, TypeError, AttributeError) as error:  # valid by the schema, yet not by the method
        raise ValueError(f"the manifest does not say how to select again: {error!r} is missing or wrong.") from None
    done = compare_picks(indices, selection.indices.tolist(), manifest.objective, selection.objective)
    open_parts = [part for check in checks for part in check.not_covered]
    return replace(done, not_covered=(*open_parts, *_unlike(manifest.recipe, selection.record)))


def _unlike(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What of the encoder, the vectors and the proxy is not what the manifest names, or has no hash there."""
    for part in ("features", "proxy"):
        one, other = ({**(record.get(part) or {})} for record in (recorded, now))
        renamed = {"encoder", "model"} if one.get("files") and one["files"] == other.get("files") else set()
        for name in sorted((one.keys() | other.keys()) - renamed):
            if one.get(name) != other.get(name):
                yield f"`{part}.{name}`, {other.get(name)!r} now and {one.get(name)!r} in the manifest"
    for part in ("features", "queries", "excluded"):
        one = recorded.get(part) or {}
        if one.get("kind") in ("matrix", "dataset") and not {"sha256", "given_sha256"} & one.keys():
            yield f"`{part}`, of which the manifest holds no hash"


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
