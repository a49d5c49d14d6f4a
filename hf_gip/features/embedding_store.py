"""A folder of embeddings, on a disk or in a bucket, that many workers fill shard by shard.

    recipe.json                           first: encoder, texts, digest of the rows, type of the numbers, rows a shard
    shards/00003-1f0c….safetensors        the vectors of shard 3, named by their digest
    shards/00003.json                     after it: shard 3 is complete, in that file
    manifest.json                         last: the recipe and all shards; where it is, the rest is there

A shard is cut from the rows alone, by their positions. So it is the same whoever makes it, and how many workers there
are changes nothing: each makes those of its share that are not complete. Two that make the same shard do the same work
twice; where their devices round differently, each writes a file of its own and the marker names one of them.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import fsspec
import numpy as np
import torch
from datasets import Dataset, config
from datasets.utils import tqdm
from fsspec.implementations.local import LocalFileSystem
from jaxtyping import Float, Int64
from safetensors.torch import save
from torch import Tensor

from hf_gip.core.validation import brief, check_choice, check_device, check_int, is_int
from hf_gip.features.embed import VERSION, choose_precision, embed_texts
from hf_gip.features.embedding_cache import check_room
from hf_gip.features.encoders import Encoder, EncoderRef, resolve_encoder
from hf_gip.features.sentence_transformer import DEFAULT_ENCODER, installed_copy
from hf_gip.features.text import TextRecipe, check_rows, iter_texts, text_recipe
from hf_gip.hashing import hash_bytes, hash_file, hash_json, hash_rows
from hf_gip.io import atomic_file, check_path

FORMAT = 1
SHARD_ROWS = 4_096
SAMPLE_ROWS = 4_096  # by which the first worker decides whether the encoder's half precision will do
CHUNK_BYTES = 1 << 24
RECIPE, MANIFEST = "recipe.json", "manifest.json"
DTYPES = {"float16": torch.float16, "float32": torch.float32}
NAMES = {"rows": "rows numbering", "rows_sha256": "rows of digest", "version": "format of vectors"}  # in refusals
ADVICE = "free space there or choose another folder; complete shards are kept"


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EmbeddingStore:
    """A complete store: a `MatrixSource` whose rows stay on disk.

    Attributes:
        path: Where it is.
        recipe: Plain JSON: what the vectors are of, and by what.
        manifest: The recipe with the width and every shard's file, rows, size and SHA-256.
        files: The shards' files on this machine, in order.
        counts: How many rows each holds.
    """

    path: str
    recipe: dict[str, Any]
    manifest: dict[str, Any]
    files: tuple[Path, ...]
    counts: tuple[int, ...]

    @property
    def n(self) -> int:
        """Number of rows."""
        return sum(self.counts)

    @property
    def d(self) -> int:
        """Width of a row."""
        return int(self.manifest["dims"])

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers."""
        return DTYPES[self.recipe["dtype"]]

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    @property
    def digest(self) -> str:
        """16 hex digits that depend on every number."""
        return hash_json(self.manifest)

    def rows(self, indices: Int64[Tensor, " k"]) -> Float[Tensor, "k d"]:
        """The rows at `indices`, in that order."""
        ends = torch.tensor(self.counts).cumsum(0)
        shard_of = torch.searchsorted(ends, indices, right=True)
        out = torch.empty(len(indices), self.d, dtype=self.dtype)
        for number in shard_of.unique().tolist():
            in_shard = shard_of == number
            out[in_shard] = self._map(number)[indices[in_shard] - (int(ends[number]) - self.counts[number])]
        return out

    def chunks(self) -> Iterator[tuple[int, Float[Tensor, "c d"]]]:
        """Every row once, in order, at most 16 MB at a time, read when touched: (number of the first, rows)."""
        step, first = max(1, CHUNK_BYTES // (self.d * self.dtype.itemsize)), 0
        for number, count in enumerate(self.counts):
            for start, chunk in enumerate(self._map(number).split(step)):
                yield first + start * step, chunk
            first += count

    def _map(self, number: int) -> Float[Tensor, "c d"]:
        """A shard's rows in place, open only while they are used: a process may have fewer files than a store."""
        shape = (self.counts[number], self.d)
        offset = self.files[number].stat().st_size - shape[0] * shape[1] * self.dtype.itemsize  # they end the file
        return torch.from_numpy(np.memmap(self.files[number], self.recipe["dtype"], "c", offset, shape))

    def encoder_name(self) -> str | None:
        """What names the encoder that filled the store, None where only its object or folder does."""
        identity = self.recipe["encoder"]
        if identity["encoder"] == "lexical":
            return "lexical"
        return f"{identity['encoder']}@{identity['revision']}" if "revision" in identity else installed_copy(identity)

    def encoder_kwargs(self) -> dict[str, Any] | None:
        """The settings that the encoder was opened with by name, its precision among them; None where it has none."""
        identity = self.recipe["encoder"]
        if not {"revision", "files"} & identity.keys():
            return None
        return {**identity.get("encoder_kwargs", {}), "dtype": identity.get("dtype", "auto")}

    def check_pool(self, dataset: Dataset) -> None:
        """Raise unless the vectors are those of these very rows.

        Raises:
            ValueError: If not.
        """
        columns = self.recipe["columns"]
        if missing := [name for name in columns if name not in dataset.column_names]:
            raise ValueError(
                f"`features` must be a store of this dataset, got {self.path!r}, made from the column {missing[0]!r}, "
                f"which is not one of {dataset.column_names}."
            )
        if len(dataset) != self.n or hash_rows(dataset, columns) != self.recipe["rows_sha256"]:
            raise ValueError(
                f"`features` must be a store of this dataset's {len(dataset):,} rows, got {self.path!r}, made from "
                f"{'other' if len(dataset) == self.n else f'{self.n:,}'} rows: run `hf-gip embed` on this dataset."
            )


def open_embeddings(store: str | os.PathLike[str]) -> EmbeddingStore:
    """Open a complete store of embeddings, to select by.

    Every shard is compared with its SHA-256 first (about 2 GB/s). A store that is not on a local disk is copied into
    the datasets cache, shard by shard, each under its digest: a second opening copies nothing. Rows are read when they
    are used; memory does not grow with n.

    Args:
        store: A folder, or any path that fsspec knows, such as `"hf://buckets/me/vectors"` or `"s3://bucket/vectors"`.

    Returns:
        The store, a `MatrixSource`.

    Raises:
        FileNotFoundError: If there is none, or it is not complete.
        ValueError: If a shard is damaged, missing or of another store.
    """
    folder = _Folder("store", store)
    manifest = _as_dict(folder.read(MANIFEST))
    if manifest is None:
        raise FileNotFoundError(_incomplete(folder))
    recipe: Any = manifest.get("recipe")
    shards: Any = manifest.get("shards")
    counts: tuple[int, ...] = ()
    try:
        counts = tuple(int(shard["rows"]) for shard in shards)
        whole = recipe["format"] == FORMAT and sum(counts) == recipe["rows"] and manifest["dims"] > 0
        whole = whole and recipe["dtype"] in DTYPES and counts == tuple(map(len, _ranges(recipe)))
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise ValueError(
            f"`store` must have a manifest of this version's format, got another one in {folder.path!r}: delete "
            f"{MANIFEST!r} and run `hf-gip embed` again, which writes it anew."
        )
    files = tuple(folder.local_copy(number, shard) for number, shard in enumerate(shards))
    return EmbeddingStore(folder.path, recipe, manifest, files, counts)


def _incomplete(folder: "_Folder") -> str:
    recipe, sizes = _as_dict(folder.read(RECIPE)), folder.sizes()
    if recipe is None:
        return f"`store` must be a store of embeddings, got none in {folder.path!r}: make it with `hf-gip embed`."
    total = len(_ranges(recipe))
    missing = [number for number in range(total) if _marker_name(number) not in sizes]
    count = f"{total - len(missing):,} of {total:,} shards"
    first = f" (the first missing: {missing[0]})" if missing else ""
    return (
        f"`store` must be complete, got {count}{first} in {folder.path!r}: run `hf-gip embed` again, it goes on there."
    )


def is_store(path: str) -> bool:
    """Whether a path, which may also be the name of a column, is that of a store."""
    return "://" in path or (Path(path).expanduser() / RECIPE).is_file()


# --- making ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoreProgress:
    """What one worker did, and how far the store is.

    Attributes:
        made: Shards made just now, by this worker.
        complete: Shards that are complete, by all workers.
        shards: Shards of the store.
    """

    made: int
    complete: int
    shards: int


def store_embeddings(
    dataset: Dataset,
    store: str | os.PathLike[str],
    encoder: str | Encoder = DEFAULT_ENCODER,
    *,
    columns: Sequence[str] | None = None,
    template: str | None = None,
    dtype: Literal["float16", "float32"] = "float16",
    shard_rows: int | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    device: str | list[str] | None = None,
    encoder_id: str | None = None,
    encoder_kwargs: Mapping[str, Any] | None = None,
) -> StoreProgress:
    """Embed this worker's share of the rows into a store, or finish what earlier runs left there.

    The rows are cut into shards of `shard_rows`; worker `rank` of `world_size` makes shards `rank`,
    `rank + world_size`, … that are not complete. A shard is written aside, hashed, and marked complete: a killed
    worker loses the shard it was at, and the same call goes on after it. No worker waits for another: they share
    nothing but the store, and start and end when they like. World sizes may differ from worker to worker and from run
    to run: the shards are the same, and what no worker's share held is missing until a later run makes it.

    Vectors are of length one. As `"float16"` each is off by less than 0.1 % of its length, a cosine by about 0.0001;
    the manifest holds the largest error.

    Args:
        dataset: The rows, the same for every worker.
        store: A folder, or any path that fsspec knows, such as `"hf://buckets/me/vectors"` or `"s3://bucket/vectors"`.
        encoder: As for `hf_gip.embed`; an object needs an `encoder_id`, unless it is a plain `SentenceTransformer`.
        columns: Text columns, instead of the detected layout.
        template: A format string naming columns in braces, instead of joining columns.
        dtype: Type of the stored numbers, *optional*, defaults to `"float16"`.
        shard_rows: Rows of a shard, which is what a kill costs at most, *optional*, defaults to what the store was
            begun with, and `4096` in a new one.
        rank: Number of this worker, from 0, *optional*, defaults to what the launcher says in the environment (see
            `worker_of_environment`), else to 0.
        world_size: Number of workers, *optional*, likewise, else 1.
        device: Torch device for sentence-transformers models, or a list of them, *optional*, defaults to a GPU if
            there is one.
        encoder_id: What to know an encoder object by. It is yours to change when the vectors change. *optional*.
        encoder_kwargs: Settings of an encoder opened by name, as for `hf_gip.embed`, *optional*. The first worker
            decides on the precision by 4,096 rows, and all others follow.

    Returns:
        How many shards were made, and how many are complete.

    Raises:
        OSError: If the disk is full or closed.
        TypeError: If an argument has the wrong kind.
        ValueError: If the store holds something else, a shard is another store's, or an argument is out of range.
    """
    check_rows("dataset", dataset)
    device = check_device(device, several=True)
    check_choice("dtype", dtype, tuple(DTYPES))
    check_int("shard_rows", shard_rows, optional=True)
    rank, world_size = resolve_worker(rank, world_size)
    texts = text_recipe(dataset, columns, template)
    folder = _Folder("store", store)

    def resolve(settings: Mapping[str, Any] | None) -> EncoderRef:
        return resolve_encoder(encoder, device=device, encoder_id=encoder_id, encoder_kwargs=settings)

    ref = resolve(encoder_kwargs)
    if ref.opaque:
        raise ValueError(
            f"`encoder_id` must say what the encoder is, as workers cannot compare the answers of a "
            f"{type(encoder).__qualname__}, got none: give a name that changes when its vectors do."
        )
    recipe = {
        "format": FORMAT,
        "rows": len(dataset),
        "rows_sha256": hash_rows(dataset, texts.columns),
        "columns": list(texts.columns),
        "template": texts.template,
        "version": VERSION,
        "normalized": True,
        "dtype": dtype,
    }
    if _as_dict(folder.read(RECIPE)) is None:
        sample = dataset.select(range(0, len(dataset), -(-len(dataset) // SAMPLE_ROWS)))
        begun = {"encoder": choose_precision(sample, texts, ref).identity, "shard_rows": shard_rows or SHARD_ROWS}
        folder.write(RECIPE, _as_bytes(recipe | begun))
    recorded = _as_dict(folder.read(RECIPE)) or {}  # as another worker may have written it
    is_open_precision = not {"dtype", "backend"} & set(encoder_kwargs or {})
    if is_open_precision and {"revision", "files"} & ref.identity.keys():  # a model that is opened by name
        ref = resolve({**(encoder_kwargs or {}), "dtype": recorded.get("encoder", {}).get("dtype", "auto")})
    recipe |= {"encoder": ref.identity, "shard_rows": shard_rows or recorded.get("shard_rows")}
    _check_recipe(folder, recorded, recipe)
    missing = _missing_shards(folder, recipe, range(rank, len(_ranges(recipe)), world_size))
    _fill(folder, recipe, missing, dataset, texts, ref)
    return StoreProgress(len(missing), _finish(folder, recipe), len(_ranges(recipe)))


def worker_of_environment(environment: Mapping[str, str] | None = None) -> tuple[int, int] | None:
    """The rank and the world size that a launcher says; None where none does.

    Of `RANK` and `WORLD_SIZE` (torchrun, `accelerate launch`, or `hf jobs run --env`), else of Slurm: tasks of a step
    (`SLURM_PROCID` of `SLURM_NTASKS`), and of an array, whose elements count as more workers (`SLURM_ARRAY_TASK_ID`).

    Raises:
        ValueError: If they contradict each other.
    """
    values = os.environ if environment is None else environment

    def number(name: str, default: int) -> int:
        try:
            return int(values.get(name, default))
        except ValueError:
            raise ValueError(f"{name} must be a whole number in the environment, got {values[name]!r}.") from None

    if "RANK" in values or "WORLD_SIZE" in values:
        if "RANK" not in values or "WORLD_SIZE" not in values:
            one, other = ("RANK", "WORLD_SIZE") if "RANK" in values else ("WORLD_SIZE", "RANK")
            raise ValueError(f"{one} and {other} must both be in the environment, got only {one}: set {other} too.")
        return number("RANK", 0), number("WORLD_SIZE", 1)
    if "SLURM_PROCID" not in values and "SLURM_ARRAY_TASK_ID" not in values:
        return None
    tasks, elements = number("SLURM_NTASKS", 1), number("SLURM_ARRAY_TASK_COUNT", 1)
    first, step = number("SLURM_ARRAY_TASK_MIN", 0), number("SLURM_ARRAY_TASK_STEP", 1)
    element = (number("SLURM_ARRAY_TASK_ID", first) - first) // step
    return element * tasks + number("SLURM_PROCID", 0), elements * tasks


def resolve_worker(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Which worker this is, and of how many: as given, else as the launcher says, else the only one.

    Raises:
        ValueError: If only one is given, or the rank is none of the world's.
    """
    if (rank is None) != (world_size is None):
        raise ValueError(
            f"`rank` and `world_size` must be given together, got rank={brief(rank)} and "
            f"world_size={brief(world_size)}."
        )
    if rank is None or world_size is None:
        rank, world_size = worker_of_environment() or (0, 1)
    check_int("world_size", world_size)
    if not is_int(rank) or not 0 <= rank < world_size:
        raise ValueError(
            f"`rank` must be from 0 to {world_size - 1}, one for each of {world_size} workers, got {brief(rank)}: "
            "number them from 0, or give `rank` and `world_size`."
        )
    return rank, world_size


def _check_recipe(folder: "_Folder", recorded: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    """Raise unless the store was begun with this recipe.

    Raises:
        ValueError: If it was begun with another.
    """
    for name, value in recipe.items():
        if recorded.get(name) != value:
            raise ValueError(
                f"`store` must be new or hold the same vectors, got {NAMES.get(name, f'`{name}`')} "
                f"{brief(recorded.get(name))} in {folder.path!r} where this run has {brief(value)}: choose another "
                "folder, or run with what it was begun with."
            )


def _missing_shards(folder: "_Folder", recipe: Mapping[str, Any], share: range) -> list[int]:
    """Which shards of the share are to be made: without a marker, or whose file is not what it says."""
    sizes = folder.sizes()
    return [number for number in share if folder.marker(number, recipe, sizes, whole=True) is None]


def _fill(
    folder: "_Folder",
    recipe: Mapping[str, Any],
    missing: list[int],
    dataset: Dataset,
    texts: TextRecipe,
    ref: EncoderRef,
) -> None:
    """Make these shards, one after the other.

    Raises:
        OSError: If the disk is full or closed.
    """
    if not missing:
        return
    encoder, ranges = ref.load(), _ranges(recipe)
    loaded, remaining = replace(ref, load=lambda: encoder), sum(len(ranges[number]) for number in missing)
    with tqdm(total=remaining, unit="row", desc="Embedding") as bar:
        for number in missing:
            words = list(iter_texts(dataset.select(ranges[number]), texts))
            vectors, empty = _embed_shard(words, loaded)
            stored = vectors.to(DTYPES[recipe["dtype"]])
            if number == missing[0]:
                folder.check_room(remaining * stored.shape[1] * stored.itemsize)
            data = save({"features": stored})
            digest = hash_bytes(data)
            marker = {
                "store": hash_json(recipe),
                "shard": number,
                "rows": len(stored),
                "dims": stored.shape[1],
                "file": f"{number:05d}-{digest[:16]}.safetensors",
                "size": len(data),
                "sha256": digest,
                "empty_rows": empty,
                "rounding_error": float((stored.double() - vectors.double()).norm(dim=1).max()),
            }
            folder.write(f"shards/{marker['file']}", data)
            folder.write(_marker_name(number), _as_bytes(marker))
            bar.update(len(stored))


def _embed_shard(words: list[str], encoder: EncoderRef) -> tuple[Float[Tensor, "c d"], int]:
    """Unit vectors of texts, each distinct one encoded once; zeros for empty ones, and how many there are."""
    distinct = list(dict.fromkeys(text for text in words if text.strip()))
    vectors = embed_texts(distinct or ["."], encoder)  # to know how wide zeros are
    row_of = {text: row for row, text in enumerate(distinct)}
    rows = torch.tensor([row_of.get(text, -1) for text in words])
    return torch.where(rows[:, None] < 0, 0.0, vectors[rows]), int((rows < 0).sum())


def _finish(folder: "_Folder", recipe: Mapping[str, Any]) -> int:
    """How many shards are complete; where all are, the manifest is written.

    Raises:
        ValueError: If shards have different widths, or one is another's.
    """
    total, sizes = len(_ranges(recipe)), folder.sizes()
    if (complete := sum(_marker_name(number) in sizes for number in range(total))) < total:
        return complete
    markers = [folder.marker(number, recipe, sizes) for number in range(total)]
    readable = [marker for marker in markers if marker is not None]
    if len(readable) < total:
        return len(readable)
    widths = {marker["dims"]: marker["shard"] for marker in readable}
    if len(widths) > 1:
        (d, shard), (other_d, other_shard) = list(widths.items())[:2]
        raise ValueError(
            f"`encoder` must return vectors of one width, got {d} in shard {shard} and {other_d} in shard "
            f"{other_shard} of {folder.path!r}: delete the markers of the wrong ones and run again."
        )
    manifest = {
        "recipe": recipe,
        "dims": readable[0]["dims"],
        "empty_rows": sum(marker["empty_rows"] for marker in readable),
        "rounding_error": max(marker["rounding_error"] for marker in readable),
        "shards": [{name: marker[name] for name in ("file", "rows", "size", "sha256")} for marker in readable],
    }
    if folder.read(MANIFEST) != (data := _as_bytes(manifest)):
        folder.write(MANIFEST, data)
    folder.clear_leftovers()
    return total


# --- files -----------------------------------------------------------------------------------------------------------


class _Folder:
    """Reads and writes whole files of a store, wherever it is."""

    def __init__(self, argument: str, path: str | os.PathLike[str]) -> None:
        check_path(argument, path, "a folder or an fsspec path")
        self.path = os.fspath(path)
        try:
            self.fs, self.root = fsspec.url_to_fs(os.path.expanduser(self.path))
        except ValueError as error:  # no such protocol
            raise ValueError(
                f"`{argument}` must be a folder or a path that fsspec knows, got {self.path!r}: "
                f"{str(error).rstrip('.')}."
            ) from None
        self.is_local = isinstance(self.fs, LocalFileSystem)
        if self.is_local and Path(self.root).is_file():
            raise ValueError(f"`{argument}` must be a folder, got the file {self.path!r}: name another.")

    def read(self, name: str) -> bytes | None:
        """A file's content, None where there is none."""
        try:
            return self.fs.cat_file(f"{self.root}/{name}")
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all: on a disk aside and renamed; a bucket shows it once it is all there.

        Raises:
            FileNotFoundError: If the folder vanishes meanwhile.
            OSError: If the disk is full or closed.
        """
        if not self.is_local:
            self.fs.pipe_file(f"{self.root}/{name}", data)
            return
        try:
            with atomic_file(Path(self.root) / name, ADVICE) as part:
                part.write_bytes(data)
        except FileNotFoundError:  # a worker that found the store complete has cleared it up
            if self.read(name) is None:
                raise

    def sizes(self) -> dict[str, int]:
        """The files of the shards with their sizes, in one listing."""
        self.fs.invalidate_cache()
        try:
            entries = self.fs.ls(f"{self.root}/shards", detail=True)
        except FileNotFoundError:
            return {}
        return {f"shards/{entry['name'].rsplit('/', 1)[-1]}": int(entry["size"] or 0) for entry in entries}

    def marker(
        self, number: int, recipe: Mapping[str, Any], sizes: Mapping[str, int], *, whole: bool = False
    ) -> dict[str, Any] | None:
        """The marker of a complete shard; None where there is none, it is unreadable, or its file is not as it says.

        Args:
            number: Of the shard.
            recipe: Of this store.
            sizes: Its files.
            whole: Also compare the file with its digest, on a local disk.

        Raises:
            ValueError: If the marker is another shard's or another store's.
        """
        name = _marker_name(number)
        marker = _as_dict(self.read(name)) if name in sizes else None
        if marker is None or not {"store", "shard", "file", "sha256", "size"} <= set(marker):
            return None
        for value, expected, what in (
            (marker["store"], hash_json(recipe), "store"),
            (marker["shard"], number, "shard"),
        ):
            if value != expected:
                raise ValueError(
                    f"`store` must hold each shard once and no other store's, got {what} {value} in {name!r} of "
                    f"{what} {expected} in {self.path!r}: delete {name!r} and run again, which makes it anew."
                )
        path = f"shards/{marker['file']}"
        if sizes.get(path) != marker["size"]:
            return None
        if whole and self.is_local and hash_bytes(self.read(path) or b"") != marker["sha256"]:
            return None
        return marker

    def local_copy(self, number: int, shard: Mapping[str, Any]) -> Path:
        """The file of a shard on this machine, compared with its digest.

        Raises:
            ValueError: If it is missing or damaged.
        """
        name = f"shards/{Path(str(shard['file'])).name}"
        copy = Path(config.HF_DATASETS_CACHE) / "hf_gip" / "stores" / f"{shard['sha256']}.safetensors"
        path = Path(self.root) / name if self.is_local else copy

        def is_whole() -> bool:
            return path.is_file() and hash_file(path) == shard["sha256"]

        if not self.is_local and not is_whole() and (data := self.read(name)) is not None:
            with atomic_file(path) as part:
                part.write_bytes(data)
        if not is_whole():
            raise ValueError(
                f"`store` must hold every shard as its manifest says, got shard {number} "
                f"{'damaged' if path.is_file() else 'missing'} in {self.path!r}: delete {_marker_name(number)!r} and "
                "run `hf-gip embed` again, which makes it anew."
            )
        return path

    def check_room(self, size: int) -> None:
        """Raise unless a local disk has room for so many bytes.

        Raises:
            OSError: If not.
        """
        if self.is_local:
            Path(self.root).mkdir(parents=True, exist_ok=True)
            check_room(Path(self.root), size, "the folder of the store", ADVICE)

    def clear_leftovers(self) -> None:
        """Delete what killed workers left half-written, once nothing is missing."""
        if self.is_local:
            for part in [*Path(self.root).glob(".*.part"), *Path(self.root, "shards").glob(".*.part")]:
                part.unlink(missing_ok=True)


def _ranges(recipe: Mapping[str, Any]) -> list[range]:
    """The rows of each shard."""
    rows, step = recipe["rows"], recipe["shard_rows"]
    return [range(start, min(start + step, rows)) for start in range(0, rows, step)]


def _marker_name(number: int) -> str:
    return f"shards/{number:05d}.json"


def _as_bytes(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _as_dict(data: bytes | None) -> dict[str, Any] | None:
    """A JSON file's content; None where there is none, or it is damaged."""
    try:
        value = json.loads(data or b"")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
