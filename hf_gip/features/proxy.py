"""A proxy model: which one is meant, its LoRA layers and its training steps."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hf_gip.core.validation import brief
from hf_gip.features.per_example_gradients import PerExampleGradients, eval_frozen, output_head
from hf_gip.features.tokenization import TokenBatch
from hf_gip.hashing import hash_folder, hash_model, hash_tokenizer

logger = logging.getLogger(__name__)

LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}  # the paper's, without dropout: the runs repeat
T = TypeVar("T")
LEARNING_RATE = 2e-4  # with AdamW and this weight decay, as the released code
WEIGHT_DECAY = 0.01
WARMUP_SHARE = 0.03  # of a run, in which the learning rate rises


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model that is identified, and loaded only when it is needed.

    Attributes:
        identity: Plain JSON that changes when the gradients would: part of the cache key and of the record.
        load: Model and tokenizer; the tokenizer is None where there is none.
    """

    identity: dict[str, Any]
    load: Callable[[], tuple[nn.Module, Any]]


def resolve_model(model: str | Path | nn.Module, tokenizer: Any = None, *, device: str = "cpu") -> ModelRef:
    """Identify a model by content, without loading it.

    Args:
        model: A Hub id (with a revision after an `@` if wanted), a local folder, or a live causal language model.
        tokenizer: Instead of the one stored with the model; a live model has none of its own.
        device: Where a model opened by name goes; a live one stays where it is.

    Returns:
        The model's identity: id and commit, or a digest of the folder's files, or of the live model's weights.

    Raises:
        TypeError: If `model` is none of these, or the tokenizer no tokenizer.
        ValueError: If no such model exists.
    """
    if tokenizer is not None and not (callable(tokenizer) and hasattr(tokenizer, "name_or_path")):
        raise TypeError(f"`tokenizer` must be a tokenizer of transformers or None, got {brief(tokenizer)}.")
    if isinstance(model, nn.Module):
        identity = {"model": type(model).__name__, "weights": hash_model(model)}
        load = check_after(lambda: (model, tokenizer), "model", lambda: hash_model(model), identity["weights"])
        return ModelRef(identity | _tokenizer_identity(tokenizer), load)
    if not isinstance(model, str | Path):
        raise TypeError(f"`model` must be a Hub id, a local folder or a torch module, got {type(model).__name__}.")
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not any(folder.glob("*config.json")):  # an adapter has one of its own
            raise ValueError(f"`model` must be a folder with a saved model, got {str(model)!r} without config.json.")
        identity = {"model": folder.name, "files": hash_folder(folder), **adapter_bases(folder)}
        open_folder = partial(_load, str(folder), None, tokenizer, device)
        load = check_after(open_folder, "model", lambda: hash_folder(folder), identity["files"])
        return ModelRef(identity | _tokenizer_identity(tokenizer), load)
    if (problem := _path_problem(str(model), folder)) is not None:
        raise ValueError(f"`model` must be a Hub id, a local folder or a torch module, got {problem}.")
    name, _, revision = str(model).partition("@")
    from transformers import AutoConfig

    try:
        commit = AutoConfig.from_pretrained(name, revision=revision or "main", trust_remote_code=False)._commit_hash
    except (OSError, ValueError) as error:
        refuse_remote_code("model", str(model), error)
        raise ValueError(
            f"`model` must be a Hub id, a local folder or a torch module, got {str(model)!r}, which could not be "
            f"opened ({type(error).__name__}): check the name and the connection."
        ) from error
    identity = {"model": name, "revision": commit}
    return ModelRef(identity | _tokenizer_identity(tokenizer), lambda: _load(name, commit, tokenizer, device))


def check_after(load: Callable[[], T], argument: str, digest: Callable[[], Any], expected: Any) -> Callable[[], T]:
    """`load`, which then raises unless what it loaded still has the digest that it was identified by.

    Without that the answers of another model or encoder would go by the name of the first, in caches for good.

    Raises:
        ValueError: If it was changed in between.
    """

    def load_checked() -> T:
        loaded = load()
        if digest() != expected:
            raise ValueError(
                f"`{argument}` must stay as it was when the rows were chosen, got another content by now: select "
                "again, or put back what was there."
            )
        return loaded

    return load_checked


def adapter_bases(folder: Path) -> dict[str, Any]:
    """The models that adapters in a folder are put on, which these only name; nothing where there is no adapter.

    Raises:
        ValueError: If there is no such model.
    """
    bases = []
    for file in sorted(folder.rglob("adapter_config.json")):
        settings = json.loads(file.read_text(encoding="utf-8"))
        base, revision = settings.get("base_model_name_or_path"), settings.get("revision")
        if base:
            is_folder = revision is None or Path(base).expanduser().is_dir()
            bases.append(resolve_model(base if is_folder else f"{base}@{revision}").identity)
    return {"bases": bases} if bases else {}


def _path_problem(model: str, path: Path) -> str | None:
    """What is wrong with a name that can only mean a place on this disk and names no folder; None for a Hub id."""
    if path.is_file():
        return f"the file {model!r}: name the folder that `save_pretrained` wrote"
    if model.startswith((".", "/", "~")) or model.count("/") > 1 or "\\" in model:
        return f"{model!r}, where there is no folder: check the path"
    return None


def _tokenizer_identity(tokenizer: Any) -> dict[str, Any]:
    return {} if tokenizer is None else {"tokenizer": hash_tokenizer(tokenizer)}


def _load(name: str, revision: str | None, tokenizer: Any, device: str) -> tuple[nn.Module, Any]:
    """Weights in the type they are stored in, on `device`; no code of the repository is run.

    Raises:
        ValueError: If there is no such model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {} if revision is None else {"revision": revision}
    if tokenizer is None:
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **where)
        except (OSError, ValueError) as error:  # rows that are tokenized already need none
            refuse_remote_code("model", name, error)
            logger.info("no tokenizer beside the model %s", name)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(name, dtype="auto", trust_remote_code=False, **where)
    except (OSError, ValueError) as error:
        refuse_remote_code("model", name, error)
        reason = str(error).strip().partition("\n")[0].rstrip(".:")
        raise ValueError(
            f"`model` must hold a causal language model, got {name!r}, which transformers cannot open ({reason}): "
            "look at the files there, or pass a live model."
        ) from error
    return model.to(device), tokenizer


def refuse_remote_code(argument: str, name: str, error: Exception) -> None:
    """Say of a model that only its own code can open what can be done; other errors pass.

    Raises:
        ValueError: If `error` asks for leave to run that code.
    """
    if "trust_remote_code" in str(error):
        raise ValueError(
            f"`{argument}` must open without code of its own, which is never run here, got {name!r}: name a model of "
            "an architecture that is built in, or load it yourself in Python and pass the live model."
        ) from error


@contextmanager
def with_lora(model: nn.Module, target_modules: str, seed: int, adapter: Path | None = None) -> Iterator[nn.Module]:
    """`model` with the layers that `target_modules` names; then with the weights, adapters and flags it came with.

    Where LoRA gradients are asked of a model without LoRA, layers of the paper's shape (rank 16 on every linear
    layer) are put on, drawn from `seed`, and taken off again; of the shape that the folder `adapter` holds, if given.

    Raises:
        ImportError: If LoRA layers are wanted and peft is not installed.
    """
    output_head(model)  # refuses what is no language model
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    fresh = target_modules == "lora" and not any(hasattr(module, "lora_A") for module in model.modules())
    adapted: Any = model
    if fresh:
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise ImportError(
                '`target_modules="lora"` needs peft: `pip install "hf-gip[train]"`, or name layers of the model\'s '
                'own, e.g. `target_modules="*.down_proj"`.'
            ) from error
        devices = sorted(
            {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}, key=str
        )
        with torch.random.fork_rng(devices), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft mentions layers stored the other way round, and handles them
            torch.manual_seed(seed)
            shape = LoraConfig(**LORA) if adapter is None else LoraConfig.from_pretrained(str(adapter))
            adapted = get_peft_model(model, shape)
    try:
        yield adapted
    finally:
        if fresh:
            adapted.unload()
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def linear_schedule(progress: float) -> float:
    """The share of the peak learning rate after the share `progress` of a run, as in the released code.

    It rises in a straight line over the first 3 %, and falls in one to 0 at the end.
    """
    return min(progress / WARMUP_SHARE, (1 - progress) / (1 - WARMUP_SHARE))


class ProxyTrainer:
    """AdamW on the weights whose gradients are read, in evaluation mode: no dropout, so that a run can be repeated."""

    def __init__(
        self, per_example: PerExampleGradients, learning_rate: float | None = None, weight_decay: float | None = None
    ) -> None:
        """Start from no moments; the rates are SPICE's by default."""
        self.per_example = per_example
        self.weights: list[nn.Parameter] = [getattr(layer.module, "weight") for layer in per_example.layers]  # noqa: B009
        self.optimizer = torch.optim.AdamW(
            self.weights,
            lr=LEARNING_RATE if learning_rate is None else learning_rate,
            weight_decay=WEIGHT_DECAY if weight_decay is None else weight_decay,
        )
        self.initial = [weight.detach().clone() for weight in self.weights]

    def step(self, batches: Sequence[TokenBatch]) -> None:
        """One optimizer step on the mean loss of all rows in `batches`; nothing stays in `.grad`."""
        count = sum(len(batch.rows) for batch in batches)
        total = [torch.zeros_like(weight) for weight in self.weights]
        before = [(weight.grad, weight.requires_grad) for weight in self.weights]
        with eval_frozen(self.per_example.model):
            for weight in self.weights:
                weight.requires_grad_(True)
            for batch in batches:
                loss, scale = self.per_example.loss(batch)
                for sum_, grad in zip(total, torch.autograd.grad(loss, self.weights, allow_unused=True), strict=True):
                    if grad is not None:
                        sum_ += grad / (scale * count)
            for weight, grad in zip(self.weights, total, strict=True):
                weight.grad = grad
            self.optimizer.step()
        for weight, (grad, flag) in zip(self.weights, before, strict=True):
            weight.grad = grad
            weight.requires_grad_(flag)

    def state(self) -> dict[str, Tensor]:
        """Weights and moments, to be stored."""
        tensors = {}
        for number, weight in enumerate(self.weights):
            tensors[f"weight.{number}"] = weight.detach().clone()
            for name, value in self.optimizer.state.get(weight, {}).items():
                tensors[f"{name}.{number}"] = value.detach().clone()
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a `state`."""
        with torch.no_grad():
            for number, weight in enumerate(self.weights):
                weight.copy_(tensors[f"weight.{number}"])
                names = [name for name in ("step", "exp_avg", "exp_avg_sq") if f"{name}.{number}" in tensors]
                for name in names:
                    value = tensors[f"{name}.{number}"].clone()
                    self.optimizer.state[weight][name] = value if name == "step" else value.to(weight.device)

    def restore_initial(self) -> None:
        """Give the weights the values they came with."""
        with torch.no_grad():
            for weight, value in zip(self.weights, self.initial, strict=True):
                weight.copy_(value)
