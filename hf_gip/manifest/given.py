"""What a manifest only names and is given again: whether it is what the rows were chosen with, by its hash."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from hf_gip.core.validation import brief

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
    from hf_gip.dataset.requests import as_matrix
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
    from hf_gip.dataset.trajectories import tasks_of

    found = tasks_of(target)
    if len(found) != len(recorded):
        names = ", ".join(repr(task["name"]) for task in recorded)
        raise ValueError(f"`target` must hold the {len(recorded)} subtask(s) {names}, got {len(found)}.")
    for task, (_, rows) in zip(recorded, found, strict=True):
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
