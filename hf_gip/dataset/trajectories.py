"""Per-example gradients of a pool and of a target along a training run: what GTP and LESS choose from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from datasets import Dataset

from hf_gip.dataset.subset import check_dataset

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hf_gip.core.matrix import MatrixSource

Target = Dataset | Sequence[str] | Mapping[str, Dataset]


@dataclass(frozen=True, slots=True)
class Trajectories:
    """Gradients at every checkpoint of a run, the pool's on disk where caching is on, the target's in memory.

    Attributes:
        features: The pool's gradients, one matrix per checkpoint, (m, d) each.
        rows: Positions of their rows in the pool, ascending, (m,): those with a labelled token.
        targets: The target's, (t, d) per checkpoint; None without a target.
        subtasks: Number of the subtask of each target row, (t,); empty without a target.
        rates: The learning rate of each checkpoint.
        record: How they were made, as plain JSON.
    """

    features: "list[MatrixSource]"
    rows: "Tensor"
    targets: "list[Tensor] | None"
    subtasks: list[int]
    rates: list[float]
    record: dict[str, Any]

    def goals(self) -> "list[Tensor] | None":
        """The mean gradient of every subtask's rows, (subtasks, d) per checkpoint: what `hf_gip.gtp` matches."""
        import torch

        if self.targets is None:
            return None
        groups = torch.tensor(self.subtasks)
        return [
            torch.stack([target[groups == group].double().mean(0) for group in groups.unique()])
            for target in self.targets
        ]


def gradient_trajectories(
    dataset: Dataset,
    *,
    model: "str | nn.Module",
    target: Target | None = None,
    tokenizer: Any = None,
    checkpoints: Sequence[str | Path] | None = None,
    rates: Sequence[float] | None = None,
    columns: Sequence[str] | None = None,
    parameters: str = "lora",
    subspace: Literal["random", "snapshots"] = "random",
    dims: int | None = 4096,
    adam: bool = True,
    share: float = 0.05,
    epochs: int = 4,
    learning_rate: float = 2e-5,
    max_length: int = 2048,
    batch_size: int = 8,
    seed: int = 0,
    device: str | None = None,
) -> Trajectories:
    """Take the gradient of every row of a pool, and of a target, at every checkpoint of a run, as LESS does.

    Without `checkpoints` a warm-up run makes them: `epochs` passes over a random `share` of the pool, a checkpoint
    after each ([LESS](https://huggingface.co/papers/2402.04333); ours trains rank-16 LoRA layers on every linear layer
    unless the model brings its own, and without dropout, so that it can be repeated). Gradients of the pool's rows are
    those seen through Adam's moments, Γ = m′/√(v′+ε), those of the target plain; all are divided by their length,
    so that no row counts more for being short. Everything is kept in the datasets cache: the run and its gradients
    serve every later call, and a killed call goes on where it was.

    Costs one training step of the model per row and checkpoint, and m · `dims` numbers on disk per checkpoint.

    Args:
        dataset: The pool: rows of text, or tokenised ones with `input_ids` and, where not every token counts,
            `labels`. Rows without a label are left out and counted.
        model: A causal language model: a Hub id, a local folder, or a live one, which is left as it was. With
            `checkpoints` the model they were trained from.
        target: What the rows should serve: a dataset, texts, or several subtasks as a mapping from names to datasets.
        tokenizer: For rows of text with a live model; otherwise the model's own.
        checkpoints: Folders that a Trainer saved (`checkpoint-…`), of LoRA or of full training, in the order of the
            run, in place of the warm-up run.
        rates: Learning rate of each of `checkpoints`; None: as the Trainer logged them.
        columns: Text columns, instead of the detected layout.
        parameters: Whose gradients: `"lora"`, `"last_layer"` or a pattern of layer names.
        subspace: `"random"`, the LESS recipe, one seeded sketch; or `"snapshots"`: the principal components of the
            weights along each epoch (or of the checkpoints so far), which evolve along the run.
        dims: Width per checkpoint at most; 8192 in LESS, whose error is 0.7 times as large. None: never project,
            or all components.
        adam: Whether the pool's gradients are seen through Adam's moments, as in LESS; `gtp_select` leaves it out.
        share: Part of the pool that the warm-up run trains on.
        epochs: Passes of the warm-up run.
        learning_rate: Its peak.
        max_length: Tokens per row at most, within the model's context; longer rows are cut and counted.
        batch_size: Rows per forward pass.
        seed: Of the warm-up run, the LoRA layers and the projection.
        device: Torch device; a GPU where there is one unless told. A live model stays where it is.

    Returns:
        The gradients: `hf_gip.less(found.features, found.targets, k, rates=found.rates)` is LESS on them.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an argument does not fit the data or the model, or a row's gradient is not finite.
    """
    options: dict[str, Any] = {name: value for name, value in locals().items() if name != "dataset"}
    check_dataset(dataset, 1)
    from hf_gip.dataset.requests import plain_options

    return plan_trajectories(dataset, plain_options(options)).gather(1)


@dataclass(frozen=True, slots=True)
class Plan:
    """A call whose arguments were checked; nothing long has run.

    Attributes:
        request: Plain JSON that changes when the gradients would.
        gather: Do it, if at least as many rows as told have a label.
    """

    request: dict[str, Any]
    gather: Callable[[int], Trajectories]


def plan_trajectories(dataset: Dataset, options: dict[str, Any]) -> Plan:
    """Check the arguments of `gradient_trajectories`, and name the model, the target and the checkpoints.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an argument is out of its range.
    """
    from hf_gip.core.validation import check_device
    from hf_gip.dataset.trajectory_run import gather
    from hf_gip.features.folder_checks import check_folders
    from hf_gip.features.proxy import name_model
    from hf_gip.features.tokenise import columns_read, target_columns
    from hf_gip.hashing import hash_folder, hash_rows

    _check_options(options)
    read = columns_read(dataset, options["columns"])  # refuses wrong ones before a model is opened
    tasks = tasks_of(options["target"])
    goals = [columns_read(rows, target_columns(rows, options["columns"])) for _, rows in tasks]
    folders = options["checkpoints"]
    if folders is not None:
        wanted = {name: options[name] for name in ("model", "parameters", "adam")}
        check_folders(folders, options["rates"], snapshots=options["subspace"] == "snapshots", **wanted)
        if options["rates"] is not None:  # of any sequence, an array among them, the plain numbers that a record takes
            options = options | {"rates": [float(rate) for rate in options["rates"]]}
    named = name_model(options["model"], options["tokenizer"], device=check_device(options["device"]))
    apart = ("model", "tokenizer", "target", "checkpoints", "device", "batch_size")
    request = {name: value for name, value in options.items() if name not in apart} | {
        "proxy": named.identity,
        "checkpoints": None if folders is None else [hash_folder(Path(folder)) for folder in folders],
    }
    whole = request | {
        "rows": hash_rows(dataset, read),
        "target": [[name, hash_rows(rows, goal)] for (name, rows), goal in zip(tasks, goals, strict=True)],
    }
    return Plan(whole, lambda least: gather(dataset, named, tasks, options, request, least))


def tasks_of(target: Any) -> list[tuple[str, Dataset]]:
    """The subtasks by name; one for a single dataset, none without a target.

    Raises:
        TypeError: If the target is of another kind.
        ValueError: If it is empty.
    """
    from hf_gip.dataset.requests import plain_value
    from hf_gip.features.text import check_no_transform

    target = plain_value(target)
    if target is None:
        return []
    if isinstance(target, Dataset):
        tasks = {"target": target}
    elif isinstance(target, Mapping) and all(isinstance(rows, Dataset) for rows in target.values()):
        tasks = dict(target)
    elif isinstance(target, Sequence) and not isinstance(target, str) and all(isinstance(t, str) for t in target):
        tasks = {"target": Dataset.from_dict({"text": list(target)})}
    else:
        raise TypeError(
            "`target` must be a Dataset, a list of texts, or a mapping from names to datasets, got "
            f"{type(target).__name__}."
        )
    if not tasks or not all(len(rows) for rows in tasks.values()):
        raise ValueError("`target` must hold at least one row in every subtask, got none: leave empty ones out.")
    for rows in tasks.values():
        check_no_transform("target", rows)
    return list(tasks.items())


def _check_options(options: Mapping[str, Any]) -> None:
    """Raise unless every option is in its range.

    Raises:
        ValueError: Naming the option, the value found and the range.
    """
    from hf_gip.core.validation import brief, check_bool, check_int, check_seed, is_number
    from hf_gip.features.layers import check_parameters

    check_parameters(options["parameters"], hidden=False)
    if options["parameters"] == "hidden":
        raise ValueError('`parameters="hidden"` are no weights to train: name layers, or leave it out for LoRA.')
    if not isinstance(options["subspace"], str) or options["subspace"] not in ("random", "snapshots"):
        raise ValueError(f'`subspace` must be "random" or "snapshots", got {brief(options["subspace"])}.')
    for name in ("epochs", "max_length", "batch_size", "dims"):
        check_int(name, options[name], optional=name == "dims")
    check_seed(options["seed"])
    check_bool("adam", options["adam"])
    share, rate = options["share"], options["learning_rate"]
    if not is_number(share) or not 0 < share <= 1:
        raise ValueError(f"`share` must be a part of the pool in (0, 1], got {brief(share)}.")
    if not is_number(rate) or rate <= 0:
        raise ValueError(f"`learning_rate` must be a positive number, got {brief(rate)}.")
    if options["rates"] is not None and options["checkpoints"] is None:
        raise ValueError("`rates` belong to `checkpoints`, got none: the warm-up run knows its own.")
