"""What something *is*: digests of rows, texts, tensors, models, files and JSON, by content and nothing else.

Every cache key, record, resume check and manifest asks this module. A name (a `datasets` fingerprint, a file's time, a
Hub id without its commit) never stands for content. Everything is SHA-256: about 2 GB/s where the processor has the
instructions, and what is published can be checked with any other tool.
"""

import datetime
import decimal
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

if TYPE_CHECKING:
    from torch import Tensor, nn

BATCH_ROWS = 1_000  # rows that become Python values at a time
ARROW_ROWS = 65_536  # rows whose buffers are hashed at a time
KNOWN_CODE = {"torch", "transformers", "peft", "accelerate", "trl", "hf_gip"}  # whose hooks belong to their modules
NOT_COMPUTED = {  # entries of a model's configuration that change no gradient
    *("_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype", "use_cache", "return_dict"),
    *("output_hidden_states", "output_attentions", "pad_token_id", "bos_token_id", "eos_token_id", "peft_config"),
}
NO_SETTING = {"training", "gradient_checkpointing", "name_or_path"}  # attributes of modules that change no result
WIDE_ROW = 4_096  # bytes
TAGS = {"bytes", "time", "seconds", "text", "struct"}  # of what JSON has no word for


# --- JSON, texts, arrays, models, files ----------------------------------------------------------------------------


def hash_json(value: Mapping[str, Any]) -> str:
    """16 hex digits that depend on every part of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def hash_bytes(data: bytes) -> str:
    """SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def git_blob_id(data: bytes) -> str:
    """The name that git gives a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def hash_lines(items: Iterable[object]) -> str:
    """SHA-256 over the items, one a line."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(f"{item}\n".encode())
    return digest.hexdigest()


def hash_texts(texts: Sequence[str]) -> np.ndarray:
    """The first 16 bytes of each text's SHA-256, (n,) of type `S16`: what a text is known by in the embedding cache.

    Cost: about 0.6 µs a short text.
    """
    digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16] for text in texts]
    return np.frombuffer(b"".join(digests), dtype="S16")


def hash_array(array: "np.ndarray | Tensor") -> str:
    """SHA-256 of an array's shape, type and numbers."""
    import torch

    contiguous = torch.as_tensor(array).detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tuple(contiguous.shape)} {contiguous.dtype}".encode())
    digest.update(contiguous.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_tensors(tensors: "Mapping[str, Tensor]") -> str:
    """16 hex digits that depend on every number of every tensor, its name and its type."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def hash_model(model: "nn.Module") -> str:
    """16 hex digits that depend on every weight and on what is computed with them; half a second per gigabyte.

    Equal weights with another number of heads, another rope, another activation or another scale of the LoRA layers
    are another model, whether the configuration says so or a module was changed in place.

    Raises:
        ValueError: If it runs code of the user's, in hooks or in place of a `forward`: no digest covers that.
    """
    for name, module in model.named_modules():
        backward = module._backward_hooks, module._backward_pre_hooks
        hooks = module._forward_hooks, module._forward_pre_hooks, *backward
        replaced = [vars(module)["forward"]] if "forward" in vars(module) else []
        for code in [*replaced, *(hook for each in hooks for hook in each.values())]:
            if getattr(getattr(code, "func", code), "__module__", "").split(".")[0] not in KNOWN_CODE:
                raise ValueError(
                    f"`model` must be known by its weights and settings, got a hook or a `forward` of your own in "
                    f"{name or 'the model'!r}, whose effect no digest covers: remove it while rows are selected."
                )
    config: Any = getattr(model, "config", None)
    settings = config.to_dict() if hasattr(config, "to_dict") else {}
    adapters = [
        [name, str(module.scaling), str(module.active_adapters), bool(module.disable_adapters)]
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    ]
    computed = {name: repr(value) for name, value in settings.items() if name not in NOT_COMPUTED}
    plain = {
        name: {"class": type(module).__qualname__}
        | {key: repr(each) for key, each in vars(module).items() if _is_setting(key, each)}
        for name, module in model.named_modules()
    }
    tensors = {**model.state_dict(), **dict(model.named_buffers())}  # also buffers that are not saved
    return hash_json(
        {"weights": hash_tensors(tensors), "config": computed, "adapters": adapters, "modules": hash_json(plain)}
    )


def _is_setting(name: str, value: Any) -> bool:
    return isinstance(value, bool | int | float | str) and not name.startswith("_") and name not in NO_SETTING


def hash_tokenizer(tokenizer: Any) -> str:
    """16 hex digits that depend on how texts become tokens, not on padding or cutting set by an earlier call."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        words = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else len(tokenizer)
        options = {name: repr(value) for name, value in getattr(tokenizer, "init_kwargs", {}).items()}
        special = repr(getattr(tokenizer, "special_tokens_map", None))
        return hash_json({"kind": type(tokenizer).__name__, "words": words, "options": options, "special": special})
    plain = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    if getattr(tokenizer, "split_special_tokens", False):  # `<eos>` in a text is then read as any other word
        plain["split_special_tokens"] = True
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def hash_token_rows(rows: Iterable[Any]) -> str:
    """16 hex digits that depend on every token and label, in order."""
    digest, names = hashlib.sha256(), ("input_ids", "labels")
    for row in rows:
        read = [_plain_numbers(row[name]) if name in row else None for name in names]
        digest.update(json.dumps(read).encode())
    return digest.hexdigest()[:16]


def hash_item(item: Mapping[str, Any]) -> str:
    """16 hex digits that depend on every value of an item that goes to a collator: tokens, masks, bounds, pictures."""
    plain = {name: _plain_numbers(item[name]) for name in item}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=_item_form).encode()).hexdigest()[:16]


def _item_form(value: Any) -> Any:
    """What an item holds besides plain values; of what has neither numbers nor bytes, its kind."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "tobytes"):  # a picture
        return [str(getattr(value, "size", None)), hash_bytes(value.tobytes())]
    try:
        return _json_form(value)
    except TypeError:
        return type(value).__qualname__


def _plain_numbers(value: Any) -> Any:
    """A row's tokens or labels as JSON writes them, whatever format they come in; a missing list is an empty one."""
    if value is None:
        return []
    return value.tolist() if hasattr(value, "tolist") else value


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_folder(folder: Path) -> str:
    """SHA-256 over the files that make a model, also behind links: each one's name and content, hidden ones apart."""
    digest = hashlib.sha256()
    for path in sorted(_model_files(folder, set())):
        digest.update(json.dumps([path.relative_to(folder).as_posix(), hash_file(path)]).encode())
    return digest.hexdigest()


def _model_files(folder: Path, outer: set[str]) -> Iterator[Path]:
    """Every regular file; a link back to a folder around it is not followed."""
    outer = outer | {os.path.realpath(folder)}
    for path in folder.iterdir():
        if path.name == "__pycache__" or path.name.startswith("."):  # of tools, not of the model
            continue
        if path.is_dir() and os.path.realpath(path) not in outer:
            yield from _model_files(path, outer)
        elif path.is_file():
            yield path


# --- rows as a whole, through Arrow ----------------------------------------------------------------------------------


def hash_rows(dataset: Dataset, columns: Sequence[str] | None = None) -> str:
    """SHA-256 of the rows' values in `columns`, in row order: equal exactly when the values are.

    Independent of the order of the columns, of formats, indices mappings, chunks, slices, dictionaries and wide or
    narrow offsets; media kept in files counts with its bytes. Types count where they change a value (float32 and
    float64 differ), and so do the names of a `ClassLabel`. Cost: reads each buffer once, about 2 GB/s.

    Args:
        dataset: The rows; an indices mapping is respected.
        columns: The columns to read, *optional*, defaults to all.
    """
    names = sorted(dataset.column_names if columns is None else set(columns))
    leaves: dict[str, _Leaf] = {}
    for table in _iter_buffers(dataset, names) if names else ():
        for name in names:
            for chunk in table.column(name).chunks:
                _update(leaves, json.dumps(name), chunk)
    digest = hashlib.sha256(json.dumps([names, len(dataset), label_names(dataset.features, names)]).encode())
    for path in sorted(leaves):
        digest.update(leaves[path].digest(path))
    return digest.hexdigest()


def label_names(features: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The names of each `ClassLabel`, at any depth, by its place; what its numbers mean."""
    found: dict[str, Any] = {}

    def visit(place: str, feature: Any) -> None:
        if isinstance(feature, dict):
            for key in sorted(feature):
                visit(f"{place}.{json.dumps(key)}", feature[key])
        elif hasattr(feature, "feature"):
            visit(f"{place}[]", feature.feature)
        elif hasattr(feature, "names"):
            found[place] = feature.names

    for name in names:
        visit(name, features[name])
    return found


def content_fingerprint(dataset: Dataset) -> str:
    """16 hex digits that depend on the rows' values and on how they are shown: what `datasets` names its caches by.

    Two datasets of the same rows have the same one, however they came about.
    """
    features = re.sub(r"\{'dtype': '[^']*', '_type': 'Value'\}", "value", repr(dataset.features.to_dict()))
    columns = sorted(dataset.format["columns"])  # `datasets` gives them in an order of its own
    view = [repr({**dataset.format, "columns": columns}), features.replace("LargeList", "List")]
    return hash_json({"rows": hash_rows(dataset), "shown_as": view})


def hash_columns(dataset: Dataset) -> dict[str, str]:
    """`hash_rows` of each column by itself, in the columns' order."""
    return {name: hash_rows(dataset, [name]) for name in dataset.column_names}


def _iter_buffers(dataset: Dataset, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The rows in large batches; scattered ones are taken by Arrow, fifty times faster than by `Dataset.iter`."""
    from datasets.features.features import require_storage_embed

    table, indices = dataset.data.table.select(list(columns)), dataset._indices
    views = "_view" in str(table.schema.types)  # which Arrow cannot take from
    # `take` copies all of a column: not worth it for few rows, and too much memory for wide ones.
    costly = indices is not None and (len(dataset) <= BATCH_ROWS or table.nbytes > WIDE_ROW * len(table))
    if views or costly or any(require_storage_embed(dataset.features[name]) for name in columns):
        yield from iter_tables(dataset, columns)
        return
    for start in range(0, len(dataset), ARROW_ROWS):
        if indices is None:
            yield table.slice(start, ARROW_ROWS)
        else:
            yield table.take(indices.column(0).slice(start, ARROW_ROWS))


def hash_each_row(column: "pa.ChunkedArray | pa.Array") -> np.ndarray:
    """The first 16 bytes of the SHA-256 of each row of a column of texts or of lists of numbers, (n,) of type `S16`.

    Cost: about 1 µs a row.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    digests: list[bytes] = []
    for chunk in chunks:
        values, lengths = _content(_plain_encoding(chunk))
        ends = np.cumsum(lengths) * (len(values) // max(1, int(lengths.sum())))
        starts = np.concatenate([[0], ends[:-1]])
        valid = chunk.is_valid().to_pylist()
        for start, end, present in zip(starts.tolist(), ends.tolist(), valid, strict=True):
            digests.append(hashlib.sha256(values[start:end]).digest()[:16] if present else bytes(16))
    return np.frombuffer(b"".join(digests), dtype="S16")


class _Leaf:
    """Three streams of one column or one level of nesting: missing rows, lengths, values."""

    def __init__(self) -> None:
        self.rows = 0
        self.kinds: set[str] = set()
        self.nulls, self.lengths, self.values = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()

    def digest(self, path: str) -> bytes:
        head = json.dumps([path, self.rows, sorted(self.kinds)]).encode()
        streams = (self.nulls, self.lengths, self.values)
        return hashlib.sha256(head + b"".join(stream.digest() for stream in streams)).digest()


def _update(leaves: dict[str, _Leaf], path: str, array: pa.Array) -> None:
    """Hash a chunk into the leaf at `path`, and what is nested in it into leaves below."""
    array = _plain_encoding(array)
    kind, leaf = array.type, leaves.setdefault(path, _Leaf())
    if array.null_count:
        leaf.nulls.update((np.flatnonzero(~array.is_valid().to_numpy(zero_copy_only=False)) + leaf.rows).data)
    leaf.rows += len(array)
    if pa.types.is_struct(kind):
        leaf.kinds.add("struct")
        for field, child in zip(kind, array.flatten(), strict=True):  # `flatten`: a missing struct misses its fields
            _update(leaves, f"{path}.{json.dumps(field.name)}", child)
    elif _is_list(kind):
        leaf.kinds.add("list")
        lengths = pc.fill_null(pc.call_function("list_value_length", [array]), 0)
        leaf.lengths.update(lengths.to_numpy(zero_copy_only=False).astype(np.int64).data)
        _update(leaves, f"{path}[]", array.flatten())  # `flatten` leaves out what lies under missing rows
    elif pa.types.is_map(kind) or pa.types.is_union(kind) or pa.types.is_run_end_encoded(kind):
        leaf.kinds.add(str(kind))
        leaf.values.update("".join(f"{value!r}\n" for value in array.to_pylist()).encode())
    elif not pa.types.is_null(kind):
        leaf.kinds.add(str(kind))
        values, lengths = _content(array)
        leaf.values.update(values)
        if _is_bytes(kind):
            leaf.lengths.update(lengths.data)


def _plain_encoding(array: pa.Array) -> pa.Array:
    """The same values without extension type, dictionary or 64-bit offsets."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    narrow = {pa.large_string(): pa.string(), pa.string_view(): pa.string()}
    wide = {pa.large_binary(): pa.binary(), pa.binary_view(): pa.binary()}
    target = (narrow | wide).get(array.type)
    return array if target is None else array.cast(target)


def _content(array: pa.Array) -> tuple[Any, np.ndarray]:
    """The bytes of the values that are there, and how many values (of a list) or bytes (of a text) each row has."""
    kind = array.type
    if _is_list(kind):
        lengths = pc.fill_null(pc.call_function("list_value_length", [array]), 0).to_numpy(zero_copy_only=False)
        return _content(_plain_encoding(array.flatten()))[0], lengths.astype(np.int64)
    valid = array.drop_null() if array.null_count else array
    buffers = valid.buffers()
    if _is_bytes(kind):
        offsets = np.frombuffer(buffers[1], np.int32)[valid.offset : valid.offset + len(valid) + 1]
        lengths = np.zeros(len(array), np.int64)
        if len(valid):
            present = np.ones(len(array), bool) if valid is array else array.is_valid().to_numpy(zero_copy_only=False)
            lengths[present] = np.diff(offsets)
        data = memoryview(buffers[2] if len(valid) and buffers[2] is not None else b"")
        return data[offsets[0] : offsets[-1]] if len(valid) else data[:0], lengths
    if pa.types.is_boolean(kind):
        return memoryview(valid.to_numpy(zero_copy_only=False).astype(np.uint8)), np.ones(len(array), np.int64)
    width = kind.bit_width // 8
    data = memoryview(buffers[1] if buffers[1] is not None else b"")
    return data[valid.offset * width : (valid.offset + len(valid)) * width], np.ones(len(array), np.int64)


def _is_list(kind: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_binary(kind)


# --- each row as canonical JSON, as manifests publish it -------------------------------------------------------------


def row_hashes(dataset: Dataset, columns: Sequence[str]) -> Iterator[str]:
    """SHA-256 of each row, in order: independent of format, indices mapping and sharding.

    A row is hashed as JSON with sorted keys, UTF-8, floats by `repr`, times in ISO form, bytes by their SHA-256; media
    kept outside the dataset counts with its bytes. Cost: about 7 µs a short row; memory of one batch.
    """
    for table in iter_tables(dataset, columns):
        yield from hash_table(table, columns)


def hash_pool(dataset: Dataset, columns: Sequence[str]) -> str:
    """SHA-256 over the `row_hashes` of all rows, and over the names that the numbers of a `ClassLabel` stand for."""
    labels = label_names(dataset.features, sorted(columns))
    return hash_lines([*row_hashes(dataset, columns), *([json.dumps(labels)] if labels else [])])


def rows_digest(rows: Dataset, columns: Sequence[str]) -> str:
    """SHA-256 of the values in these columns, row by row: the same however the rows are stored.

    A missing text counts as an empty one, which is how texts are read and what a CSV file makes of it.
    """
    digest = hashlib.sha256()
    for table in rows.select_columns(sorted(columns)).with_format("arrow").iter(batch_size=BATCH_ROWS):
        for row in table.to_pylist():  # pyright: ignore[reportAttributeAccessIssue] — a table, by its format
            texts = {name: "" if value is None else value for name, value in row.items()}
            digest.update(f"{json.dumps(texts, sort_keys=True, default=str)}\n".encode())
    return digest.hexdigest()


def iter_tables(dataset: Dataset, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The rows as stored, batch by batch, with media files read in."""
    from datasets.features.features import require_storage_embed
    from datasets.table import embed_table_storage

    stored = dataset.select_columns(list(columns)).with_format("arrow")
    outside = any(require_storage_embed(feature) for feature in stored.features.values())
    for table in stored.iter(batch_size=BATCH_ROWS):
        yield embed_table_storage(table) if outside else table


def hash_table(table: pa.Table, columns: Sequence[str]) -> list[str]:
    """SHA-256 of each row of a table over `columns`.

    Raises:
        TypeError: If a value has no stable form.
    """
    table = table.select(sorted(columns))
    for number, field in enumerate(table.schema):
        if field.type == pa.time64("ns"):  # Python's times end at microseconds
            exact = pa.chunked_array([_as_struct("time", chunk) for chunk in table.column(number).chunks])
            table = table.set_column(number, field.name, exact)
        elif "time64[ns]" in str(field.type):
            raise TypeError(
                f"cannot hash nested times in nanoseconds, got column {field.name!r} of type {field.type}: cast them "
                "to microseconds before selecting."
            )
    rows = table.to_pylist()
    if any(_has_tag_struct(kind) for kind in table.schema.types):
        rows = [{name: _escape(value) for name, value in row.items()} for row in rows]
    return [hashlib.sha256(canonical(row)).hexdigest() for row in rows]


def _as_struct(tag: str, array: pa.Array) -> pa.Array:
    return pa.StructArray.from_arrays([array.cast(pa.string())], [tag], mask=array.is_null())


def _has_tag_struct(kind: pa.DataType) -> bool:
    """Whether values of this type may look like a tagged one: a struct of one field that is called like a tag."""
    fields = [kind.field(number) for number in range(kind.num_fields)]
    alike = pa.types.is_struct(kind) and len(fields) == 1 and fields[0].name in TAGS
    return alike or any(_has_tag_struct(field.type) for field in fields)


def _escape(value: Any) -> Any:
    """A value in which no struct of the user's looks like a tagged one."""
    if isinstance(value, list):
        return [_escape(each) for each in value]
    if not isinstance(value, dict):
        return value
    inner = {name: _escape(each) for name, each in value.items()}
    return {"struct": inner} if len(inner) == 1 and TAGS & inner.keys() else inner


def canonical(row: dict[str, Any]) -> bytes:
    """One row as bytes that depend on its values only."""
    text = json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_json_form)
    return text.encode()


def values(column: pa.ChunkedArray) -> Iterator[Any]:
    """A column's values one after the other, without a list of all."""
    for start in range(0, len(column), BATCH_ROWS):
        yield from column.slice(start, BATCH_ROWS).to_pylist()


def _json_form(value: Any) -> Any:
    """What JSON has no word for.

    Raises:
        TypeError: If the value has no stable form.
    """
    if isinstance(value, bytes):
        return {"bytes": hashlib.sha256(value).hexdigest()}
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return {"time": value.isoformat()}
    if isinstance(value, datetime.timedelta):
        exact = decimal.Decimal(value.days * 86_400 + value.seconds) + decimal.Decimal(value.microseconds).scaleb(-6)
        exact += decimal.Decimal(getattr(value, "nanoseconds", 0)).scaleb(-9)  # of pandas
        return {"seconds": str(exact.normalize())}
    if isinstance(value, decimal.Decimal | uuid.UUID):
        return {"text": str(value)}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"cannot hash a value of type {type(value).__name__}: drop or cast that column before selecting.")
