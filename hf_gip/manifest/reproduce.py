"""A selection made again from its manifest, and compared with the published one."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import datasets
import pyarrow as pa
from datasets import Dataset

from hf_gip.manifest.schema import Manifest
from hf_gip.manifest.verify import check_source

if TYPE_CHECKING:
    from hf_gip.selection import Selection, SelectionContext

SAME_OBJECTIVE = 1e-4  # relative: what float32 on another machine may cost
HUB_ID = re.compile(r"[\w.\-]+/[\w.\-]+")  # never a path out of a manifest
HEX_DIGITS = 12  # of a hash, in messages
TAKES = {  # method: the inputs that its manifest may only name
    "gip": ("target", "features", "encoder", "exclude"),
    "spice": ("model", "tokenizer"),
    "gtp": ("target", "model", "tokenizer", "checkpoints"),
}
DESCRIPTIONS = {
    "target": "the rows that the subset was chosen towards",
    "exclude": "the rows that the subset was kept away from",
    "encoder": "the files that the subset was chosen with",
    "features": "the vectors that the subset was chosen by",
    "checkpoints": "the folders that the subset was chosen along",
}


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
        reproduced: The objective reached now.
        not_covered: What could not be compared with the manifest.
    """

    verdict: Literal["same picks", "same objective", "different"]
    k: int
    common: int
    first_difference: int | None
    published: float
    reproduced: float
    not_covered: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the objective was reached again."""
        return self.verdict != "different"

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        rank = "" if self.first_difference is None else f", first difference at rank {self.first_difference}"
        change = self.reproduced / self.published - 1 if self.published else 0
        return (
            f"{self.verdict}: {self.common:,} of {self.k:,} rows in common{rank}; objective {self.reproduced:.8g}, "
            f"published {self.published:.8g} ({change:+.1e})"
            + "".join(f"\n  not covered: {part}" for part in self.not_covered)
        )


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a selection was made with and a manifest may only name, by argument of `reproduce`; None where left out."""

    target: Any = None
    features: Any = None
    encoder: Any = None
    exclude: Any = None
    model: Any = None
    tokenizer: Any = None
    checkpoints: Any = None

    def require(self, name: str, description: str, pronoun: str = "it") -> Any:
        """An input that the manifest only names.

        Raises:
            ValueError: If it was left out.
        """
        if (value := getattr(self, name)) is None:
            raise ValueError(
                f"`{name}` must be passed again: the manifest names {description} and does not hold {pronoun}."
            )
        return value

    def refuse(self, reason: str, *names: str) -> None:
        """Raise where an input was passed that cannot count.

        Raises:
            ValueError: If there is one; it says the `reason`.
        """
        from hf_gip.core.validation import brief  # and with it torch, which `verify` does without

        for name in names:
            if (value := getattr(self, name)) is not None:
                kind = brief(value) if isinstance(value, str | list) else type(value).__name__
                raise ValueError(f"`{name}` must be left out, got {kind}: {reason}.")

    def check_method(self, method: str) -> None:
        """Raise where an input was passed that the method never has.

        Raises:
            ValueError: If there is one, or the method is unknown.
        """
        if method not in TAKES:
            raise ValueError(f"only subsets chosen by {', '.join(TAKES)} can be chosen again, got {method!r}.")
        foreign = {name for names in TAKES.values() for name in names} - set(TAKES[method])
        self.refuse(f"a subset chosen by {method} has none", *sorted(foreign))


def reproduce_from(
    manifest: Manifest, picks: pa.Table, source: Dataset, inputs: Inputs, *, device: str | None = None
) -> Reproduction:
    """Select again as `manifest` says, and compare with the published `picks`.

    Raises:
        ValueError: If the source is not the recorded one, the method is unknown, or an input is missing or needless.
    """
    checks = check_source(manifest, picks, source)
    if failed := [check.sentence for check in checks if check.outcome == "failed"]:
        raise ValueError(f"`source` must be the recorded one: {failed[0]}")
    indices = picks["index"].to_pylist()
    inputs.check_method(manifest.method)
    try:
        with _no_cached_selection():
            selection = reselect(manifest, source, inputs, indices, device=device)
    except (KeyError, TypeError, AttributeError) as error:  # valid by the schema, yet not by the method
        raise ValueError(f"the manifest does not say how to select again: {error!r} is missing or wrong.") from None
    rounding = (manifest.recipe.get("features") or {}).get("rounding_error") or 0.0  # of stored vectors' lengths
    tolerance = SAME_OBJECTIVE + (2 * rounding if inputs.features is None else 0.0)
    result = compare_picks(indices, selection.indices.tolist(), manifest.objective, selection.objective, tolerance)
    not_covered = [part for check in checks for part in check.not_covered]
    return replace(result, not_covered=(*not_covered, *_not_compared(manifest.recipe, selection.record)))


def reselect(
    manifest: Manifest, source: Dataset, inputs: Inputs, picks: list[int], *, device: str | None = None
) -> "Selection":
    """Call `gip_select`, `spice_select` or `gtp_select` with the recorded options.

    Args:
        manifest: What was recorded.
        source: The pool.
        inputs: What it only names.
        picks: The published picks: the first of them are the rows that GIP started from.
        device: Torch device.

    Returns:
        The selection made now.
    """
    from hf_gip.dataset.gip import gip_select
    from hf_gip.dataset.gtp import gtp_select
    from hf_gip.dataset.spice import spice_select

    select = {"gip": gip_select, "spice": spice_select, "gtp": gtp_select}[manifest.method]
    options, arguments = _recorded_call(manifest, inputs, picks, device)
    subset = select(source, manifest.parameters["k"], **arguments, **vars(options))
    return getattr(subset, "selection")  # noqa: B009 — set by the selecting function, unknown to type checkers


def recorded_context(manifest: Manifest, pool: Dataset, inputs: Inputs, picks: list[int]) -> "SelectionContext":
    """What explains the picks of a saved subset: its options again, on its pool.

    Args:
        manifest: What was recorded.
        pool: The rows it was chosen from.
        inputs: What it only names.
        picks: The published picks.
    """
    from hf_gip.dataset.gip import GipContext
    from hf_gip.dataset.gradient_trajectories import plan_trajectories
    from hf_gip.dataset.gtp import GtpContext
    from hf_gip.dataset.spice import SpiceContext
    from hf_gip.features.proxy import resolve_model

    options, arguments = _recorded_call(manifest, inputs, picks, None)
    if manifest.method == "gip":
        return GipContext.from_options(pool, options)
    if manifest.method == "gtp":
        return GtpContext(plan_trajectories(pool, **arguments, options=options))
    return SpiceContext(pool, resolve_model(**arguments, device=options.device), options)


def _recorded_call(
    manifest: Manifest, inputs: Inputs, picks: list[int], device: str | None
) -> tuple[Any, dict[str, Any]]:
    """The method's options as recorded, and the arguments beside them: model, tokenizer and target."""
    from hf_gip.dataset.gip_options import GipOptions
    from hf_gip.dataset.options import GtpOptions, SpiceOptions

    parameters, recipe = manifest.parameters, manifest.recipe
    common: dict[str, Any] = {"id_column": manifest.source.id_column, "device": device}
    if manifest.method == "gip":
        return GipOptions.from_record(parameters, recipe, picks=picks, **_gip_inputs(recipe, inputs), **common), {}
    proxy = _proxy(manifest, inputs)
    if manifest.method == "spice":
        return SpiceOptions.from_record(parameters, recipe, **common), proxy
    target, checkpoints = _tasks(recipe["target"], inputs), None
    if recipe["warm_up"] is None:
        checkpoints = _checkpoints(recipe["checkpoints"], inputs)
    else:
        inputs.refuse("the subset was chosen along a warm-up run of its own", "checkpoints")
    return GtpOptions.from_record(parameters, recipe, checkpoints=checkpoints, **common), {**proxy, "target": target}


def compare_picks(
    published: list[int], reproduced: list[int], objective: float, reached: float, tolerance: float = SAME_OBJECTIVE
) -> Reproduction:
    """Two selections by their rows and objectives, which are the same within a relative `tolerance`."""
    pairs = enumerate(zip(published, reproduced, strict=False))
    first = next((rank for rank, (one, other) in pairs if one != other), None)
    if abs(reached - objective) > tolerance * abs(objective):
        verdict = "different"
    else:
        verdict = "same picks" if first is None and len(published) == len(reproduced) else "same objective"
    common = len(set(published) & set(reproduced))
    return Reproduction(verdict, len(published), common, first, objective, reached)


def _not_compared(recorded: Mapping[str, Any], reproduced: Mapping[str, Any]) -> Iterator[str]:
    """What of the encoder, the vectors and the proxy is not what the manifest names, or has no hash there."""
    for part in ("features", "proxy"):
        then, now = ({**(record.get(part) or {})} for record in (recorded, reproduced))
        renamed = {"encoder", "model"} if then.get("files") and then["files"] == now.get("files") else set()
        for name in sorted((then.keys() | now.keys()) - renamed):
            if name in then and then[name] is None and now.get(name) is not None:
                yield f"`{part}.{name}`, which was hashed in another way when this was saved"
            elif then.get(name) != now.get(name):
                yield f"`{part}.{name}`, {now.get(name)!r} now and {then.get(name)!r} in the manifest"
    for part in ("features", "queries", "excluded"):
        then = recorded.get(part) or {}
        if then.get("kind") in ("matrix", "dataset") and not {"sha256", "given_sha256"} & then.keys():
            yield f"`{part}`, of which the manifest holds no hash"


@contextmanager
def _no_cached_selection() -> Iterator[None]:
    """Select in earnest; a cached selection would agree with itself."""
    enabled = datasets.is_caching_enabled()
    datasets.disable_caching()
    try:
        yield
    finally:
        if enabled:
            datasets.enable_caching()


# --- GIP -------------------------------------------------------------------------------------------------------------


def _gip_inputs(recipe: Mapping[str, Any], inputs: Inputs) -> dict[str, Any]:
    """Target, exclusion, features and encoder as they were; None where the record holds them."""
    features, excluded = recipe["features"], recipe.get("excluded")
    if not excluded:
        inputs.refuse("the subset was kept away from no rows", "exclude")
    return {
        "target": _rows_or_vectors("target", recipe["queries"], inputs, features),
        "exclude": _rows_or_vectors("exclude", excluded, inputs, features) if excluded else None,
        **_features(features, inputs),
    }


def _rows_or_vectors(name: str, recipe: dict[str, Any], inputs: Inputs, features: Mapping[str, Any]) -> Any:
    """The target, or what to stay away from."""
    if recipe["kind"] in ("pool", "texts"):
        value = getattr(inputs, name)
        if not isinstance(value, list | tuple) or list(value) != recipe.get("texts"):  # the same texts do no harm
            inputs.refuse("the manifest holds what it needs", name)
        return recipe.get("texts")
    value = inputs.require(name, f"a {recipe['kind']}")
    _check_vectors(name, recipe, value, features.get("column"))
    return value


def _features(recipe: Mapping[str, Any], inputs: Inputs) -> dict[str, Any]:
    """The vectors or the encoder, where the record only names them; those of a store where it is passed."""
    from hf_gip.features.embedding_store import EmbeddingStore, open_embeddings

    if recipe["kind"] == "matrix":
        vectors = inputs.require("features", "a matrix")
        _check_vectors("features", recipe, vectors)
        return {"features": vectors}
    if "store" in recipe and inputs.features is not None:
        store = (
            open_embeddings(inputs.features) if not isinstance(inputs.features, EmbeddingStore) else inputs.features
        )
        _check_digest("features", recipe["store"], store.digest)
        return {"features": store, "encoder": inputs.encoder}
    by = "their texts" if recipe["kind"] == "text" else "a column of theirs"
    inputs.refuse(f"the rows were chosen by {by}", "features")
    return {"encoder": _encoder(recipe, inputs)} if recipe["kind"] == "text" else {}


def _encoder(recipe: Mapping[str, Any], inputs: Inputs) -> Any:
    """The recorded encoder: by its name where that says enough, else as it was passed.

    Raises:
        ValueError: If it was left out, is no folder where it was one, or holds other files.
    """
    from hf_gip.features.sentence_transformer import installed_copy
    from hf_gip.hashing import hash_folder

    if recipe["encoder"] == "lexical":
        return "lexical"
    if "revision" in recipe and HUB_ID.fullmatch(recipe["encoder"]):
        return f"{recipe['encoder']}@{recipe['revision']}"
    if inputs.encoder is None and (installed := installed_copy(recipe)) is not None:
        return installed
    encoder = inputs.require("encoder", repr(recipe["encoder"]))
    if recipe.get("files") is not None and isinstance(encoder, str):
        folder = Path(encoder).expanduser()
        if not folder.is_dir():
            raise ValueError(
                f"`encoder` must be the folder that the subset was chosen with, got {encoder!r}: name it."
            )
        _check_digest("encoder", recipe["files"], hash_folder(folder))
    return encoder


def _check_vectors(name: str, recipe: Mapping[str, Any], value: Any, column: str | None = None) -> None:
    """Raise unless `value` is what GIP's recipe names; one without a hash, as older versions wrote, names nothing.

    Args:
        name: The argument.
        recipe: What was recorded of it.
        value: What was passed.
        column: The column whose vectors were read, where it was a dataset with such.

    Raises:
        ValueError: If it is something else.
    """
    recorded = recipe.get("given_sha256")
    if recorded is None and recipe["kind"] == "matrix" and not recipe.get("whitened"):
        recorded = recipe.get("sha256")  # the numbers themselves, also in older manifests
    if recorded is None:
        return
    from hf_gip.dataset.columns import read_vectors
    from hf_gip.dataset.values import as_matrix
    from hf_gip.hashing import hash_array

    digest = None
    if isinstance(value, Dataset) and recipe["kind"] == "dataset":
        if (columns := recipe.get("columns")) is not None:
            digest = _rows_digest(value, columns)
        elif column is not None and column in value.column_names:
            digest = hash_array(read_vectors(value, column))
    elif recipe["kind"] == "matrix" and not isinstance(value, Dataset):
        matrix = as_matrix(name, value, "a matrix, as it was")
        digests = [hash_array(each) for each in (matrix, matrix.float(), matrix.double())]  # lists change the type
        digest = recorded if recorded in digests else digests[0]
    _check_digest(name, recorded, digest)


def _rows_digest(rows: Dataset, columns: Sequence[str]) -> str | None:
    from hf_gip.hashing import rows_digest

    return rows_digest(rows, columns) if set(columns) <= set(rows.column_names) else None


def _check_digest(name: str, recorded: str, digest: str | None, suffix: str = "") -> None:
    """Raise unless the hashes are equal.

    Raises:
        ValueError: If they are not.
    """
    if digest != recorded:
        kind = "of another kind" if digest is None else f"(hash {digest[:HEX_DIGITS]}…)"
        raise ValueError(
            f"`{name}` must be {DESCRIPTIONS[name]}, got others{suffix} {kind}: pass those of hash "
            f"{recorded[:HEX_DIGITS]}…."
        )


# --- SPICE and GTP ---------------------------------------------------------------------------------------------------


def _proxy(manifest: Manifest, inputs: Inputs) -> dict[str, Any]:
    """The model whose gradients chose the rows, and the tokenizer that was passed with it.

    Raises:
        ValueError: If the model was left out, or is another than the recorded one.
    """
    from hf_gip.features.proxy import resolve_model

    recorded = {name: value for name, value in manifest.recipe["proxy"].items() if name != "steps"}
    model = inputs.model
    if model is None and "revision" in recorded and HUB_ID.fullmatch(recorded["model"]):
        model = f"{recorded['model']}@{recorded['revision']}"
    if model is None:
        model = inputs.require("model", repr(recorded["model"]))
    identity = resolve_model(model, inputs.tokenizer).identity
    names = identity.keys() | recorded.keys()
    if "files" in identity and "files" in recorded:
        names -= {"model"}  # a folder may be called otherwise
    names -= {name for name, value in recorded.items() if value is None}  # computed in another way then
    if differing := sorted(name for name in names if identity.get(name) != recorded.get(name)):
        raise ValueError(
            f"`model` must be the recorded proxy {recorded['model']!r}, got {identity['model']!r} with other "
            f"{' and '.join(differing)}: give the model and tokenizer it was chosen with."
        )
    return {"model": model, "tokenizer": inputs.tokenizer}


def _tasks(recorded: Sequence[Mapping[str, Any]], inputs: Inputs) -> Any:
    """The target's subtasks in their recorded order; None where the pool was its own target.

    Raises:
        ValueError: If they were left out, or hold other rows.
    """
    from hf_gip.dataset.gradient_trajectories import subtasks_of

    if not recorded:
        inputs.refuse("the subset was chosen towards its own pool", "target")
        return None
    names = [task["name"] for task in recorded]
    target = inputs.require("target", " and ".join(map(repr, names)), "its rows")
    if isinstance(target, Mapping) and set(target) == set(names):
        target = {name: target[name] for name in names}
    tasks = subtasks_of(target)
    if len(tasks) != len(recorded):
        listed = ", ".join(map(repr, names))
        raise ValueError(f"`target` must hold the {len(recorded)} subtask(s) {listed}, got {len(tasks)}.")
    for task, rows in zip(recorded, tasks.values(), strict=True):
        if task.get("sha256") is not None:
            _check_digest("target", task["sha256"], _rows_digest(rows, task["columns"]))
    return target


def _checkpoints(recorded: Sequence[Mapping[str, Any]], inputs: Inputs) -> Sequence[Any]:
    """The Trainer's folders in the order of the run; what is no folder is refused when it is read.

    Raises:
        TypeError: If it is a single one.
        ValueError: If they were left out, or hold other checkpoints.
    """
    from hf_gip.hashing import hash_folder

    folders = inputs.require("checkpoints", ", ".join(point["name"] for point in recorded), "them")
    if isinstance(folders, str | Path):
        raise TypeError(f"`checkpoints` must be a list of folders, got {str(folders)!r}.")
    if len(recorded) != len(folders):
        raise ValueError(f"`checkpoints` must be the {len(recorded)} recorded folder(s), got {len(folders)}.")
    for point, folder in zip(recorded, map(Path, folders), strict=True):
        if point.get("sha256") is not None and folder.is_dir():
            _check_digest("checkpoints", point["sha256"], hash_folder(folder), f" in {folder.name!r}")
    return folders
