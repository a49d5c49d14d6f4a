"""`gip/manifest.json`: what it may hold, how it is written, and how an untrusted one is read."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

import pyarrow as pa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from hf_gip.hashing import hash_bytes

MANIFEST_PATH = "gip/manifest.json"
SELECTION_PATH = "gip/selection.parquet"
CARD_PATH = "README.md"
MAX_BYTES = 16 << 20  # of a manifest; read before anything is parsed
PLAIN_NAME = r"\w+([.\-]\w+)*"  # of configurations and splits: they become file names
MAX_DEPTH = 12  # of free-form recipes

SELECTION_SCHEMA = pa.schema(  # of the selection file, before the method's own curves
    [
        ("rank", pa.int64()),
        ("index", pa.int64()),
        ("row_id", pa.string()),
        ("gain", pa.float64()),
        ("row_sha256", pa.string()),
        ("weight", pa.float64()),
        ("epoch", pa.int64()),
    ]
)

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Name = Annotated[str, Field(min_length=1, max_length=500)]
PlainName = Annotated[str, Field(pattern=f"^{PLAIN_NAME}$", max_length=100)]
RepoId = Annotated[str, Field(pattern=r"^[\w.\-]+(/[\w.\-]+)?$", max_length=200)]
Count = Annotated[int, Field(ge=0, lt=1 << 62)]


def _relative(path: str) -> str:
    """A path that stays inside its folder, in POSIX form.

    Raises:
        ValueError: If it does not.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or "\\" in path or ":" in path or "\0" in path:
        raise ValueError(f"path {path!r} must be relative and POSIX")
    if ".." in parts or PurePosixPath(path).as_posix() != path:
        raise ValueError(f"path {path!r} must stay inside its folder and be in plain form")
    return path


def _shallow(value: Any, depth: int = MAX_DEPTH) -> Any:
    """A JSON value that is not nested without end.

    Raises:
        ValueError: If it is.
    """
    if isinstance(value, Mapping | list):
        if depth == 0:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        for item in value.values() if isinstance(value, Mapping) else value:
            _shallow(item, depth - 1)
    return value


RelativePath = Annotated[str, Field(max_length=500), AfterValidator(_relative)]
Json = Annotated[dict[str, Any], Field(max_length=200), AfterValidator(_shallow)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class FileEntry(_Frozen):
    """One file of the layout."""

    sha256: Sha256
    size: Count
    rows: Count | None = None


class SourceFile(_Frozen):
    """One file the pool was read from: its name in the repository, or its bare name where it was local."""

    name: RelativePath
    size: Count
    sha256: Sha256 | None = None


class Origin(_Frozen):
    """A repository that rows stem from, in whatever shape; without a `repo_id` where it is not known.

    `private` (or gated, or not to be seen) and `license` are what the Hub said when the subset was published.
    """

    repo_id: RepoId | None = None
    revision: Commit | None = None
    private: bool | None = None
    license: Annotated[list[Name], Field(max_length=20)] = []


class Source(_Frozen):
    """Where the pool came from.

    `kind` says what pins it: a `hub` repository at a commit, local `files` by their content, or the `rows` themselves
    (a dataset made in memory or changed after loading). `origins` lists the repositories that the rows were derived
    from in any case. A fingerprint of `datasets` is left out: it depends on paths.
    """

    kind: Literal["hub", "files", "rows"]
    num_rows: Count
    columns: Annotated[list[Name], Field(max_length=10_000)]
    id_column: Name | None = None
    repo_id: RepoId | None = None
    revision: Commit | None = None
    config: Name | None = None
    split: Name | None = None
    files: Annotated[list[SourceFile], Field(max_length=100_000)] = []
    rows_sha256: Sha256 | None = None
    origins: Annotated[list[Origin], Field(max_length=1_000)] = []


class Manifest(_Frozen):
    """What was selected, how, from where, and the hashes of every part.

    Attributes:
        format: Version of this schema; `upgrade_format_1` reads the one before.
        method: Name of the selecting method.
        parameters: The method's options and what it derived from them: budget, objective, noise, ….
        recipe: Everything else that decides the result, enough to select again: features, queries, scores.
        source: The pool.
        versions: Library versions.
        k: Rows chosen.
        columns: Columns the row hashes cover.
        objective: Sum of the gains.
        total: What the objective could reach at most, or None.
        captured: `objective` / `total`, or None.
        indices_sha256: Digest of the chosen positions in pick order.
        rows_sha256: Digest of the row hashes in pick order.
        include_rows: Whether the rows themselves are here, or only indices and hashes.
        config_name: Configuration of the rows.
        split: Split of the rows.
        files: Every file but the card and this one.
        digest: Digest of all of the above.
    """

    format: Literal[2] = 2
    method: Name
    parameters: Json
    recipe: Json
    source: Source
    versions: Annotated[dict[str, Name], Field(max_length=100)]
    k: Annotated[int, Field(ge=1, lt=1 << 40)]
    columns: Annotated[list[Name], Field(min_length=1, max_length=10_000)]
    objective: float
    total: float | None
    captured: float | None
    indices_sha256: Sha256
    rows_sha256: Sha256
    include_rows: bool
    config_name: PlainName
    split: PlainName
    files: Annotated[dict[RelativePath, FileEntry], Field(min_length=1, max_length=100_000)]
    digest: Sha256 | Literal[""] = ""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if SELECTION_PATH not in self.files:
            raise ValueError(f"`files` must list {SELECTION_PATH!r}")
        if self.include_rows != bool(self.shards()):
            raise ValueError("`include_rows` and the listed data files disagree")
        return self

    def shards(self) -> list[str]:
        """Paths of the files that hold the rows, in order."""
        return sorted(path for path in self.files if path.startswith("data/") and path.endswith(".parquet"))

    def to_bytes(self) -> bytes:
        """The file's bytes: the same manifest gives the same bytes."""
        return canonical_bytes(self.model_dump())

    def sealed(self) -> "Manifest":
        """This manifest with its digest filled in."""
        return self.model_copy(update={"digest": content_digest(self.model_dump())})


def canonical_bytes(document: Mapping[str, Any]) -> bytes:
    """A manifest's content as it is written in every format: sorted keys, one trailing newline."""
    return (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def content_digest(document: Mapping[str, Any]) -> str:
    """SHA-256 over everything but the digest itself."""
    return hash_bytes(canonical_bytes({**document, "digest": ""}))


def parse_manifest(data: bytes) -> Manifest:
    """An untrusted manifest as a value, one of format 1 in today's words.

    Raises:
        ValueError: If it is too large, not JSON, or does not fit the schema; in one sentence.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"the manifest must be at most {MAX_BYTES} bytes, got {len(data)}.")
    try:
        return Manifest.model_validate_json(_in_this_format(data))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "file"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ValueError(f"the manifest is not valid at `{where}`: {first['msg']}{more}.") from None


def _in_this_format(data: bytes) -> bytes:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):  # the schema says where it is wrong
        return data
    if not isinstance(document, dict) or document.get("format") != 1:
        return data
    return json.dumps(upgrade_format_1(document)).encode()


def upgrade_format_1(document: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest of format 1 with the names of format 2.

    The digest stays the one that was written, over the content as it was written: `verify` compares these two. A
    digest that is computed in another way today is None, and counts as not covered.
    """
    recipe = _renamed(document.get("recipe"), {"cover": "cover_columns"})
    if isinstance(recipe, dict):
        recipe |= {part: _renamed(recipe[part], names) for part, names in FORMAT_1_RECIPE.items() if part in recipe}
        if isinstance(features := recipe.get("features"), dict) and features.get("kind") == "gradients":
            recipe["features"] = _renamed(features, FORMAT_1_GRADIENTS)
            if document.get("method") == "gtp":
                recipe["features"]["normalize"] = True  # format 1 knew no other gradients
        if isinstance(proxy := recipe.get("proxy"), dict) and "weights" in proxy:
            recipe["proxy"] = {**proxy, "weights": None}  # format 1 left out the model's configuration
    parameters = _renamed(document.get("parameters"), FORMAT_1_GRADIENTS)
    if document.get("method") == "spice" and isinstance(parameters, dict):
        parameters = {"normalize": False, "absolute_alpha": True} | parameters  # the one reading there was
    return {**document, "format": 2, "parameters": parameters, "recipe": recipe}


FORMAT_1_GRADIENTS = {"dims": "projection_dim", "parameters": "target_modules", "rates": "learning_rates"}
FORMAT_1_RECIPE = {
    "limits": {"include": "initial_rows", "budget_tokens": "max_tokens"},
    "warm_up": {"share": "warmup_fraction", "epochs": "warmup_epochs", "learning_rate": "warmup_learning_rate"},
}


def _renamed(entries: Any, names: Mapping[str, str]) -> Any:
    return {names.get(name, name): value for name, value in entries.items()} if isinstance(entries, dict) else entries


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a local folder.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is not valid.
    """
    path = folder / MANIFEST_PATH
    if not path.is_file():
        raise FileNotFoundError(
            f"folder {folder.name!r} holds no {MANIFEST_PATH}: give one written by `hf_gip.save_subset`."
        )
    with path.open("rb") as file:
        return parse_manifest(file.read(MAX_BYTES + 1))
