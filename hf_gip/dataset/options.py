"""The options of the selections by gradients: every default, every check and every recorded name once.

Free of torch until a value is made, so that the command line can show the defaults at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from hf_gip.core.spice import Fisher


@dataclass(frozen=True)
class SpiceOptions:
    """The options of `hf_gip.spice_select`, which documents them; checked when they are made.

    Raises:
        TypeError: If an option is of the wrong kind.
        ValueError: If one is out of its range, or two exclude each other.
    """

    columns: Sequence[str] | None = None
    target_modules: str = "lora"
    projection_dim: int | None = 1024
    window: int | None = 120
    update_every: int | None = 10
    normalize: bool = True
    alpha: float = 0.01
    absolute_alpha: bool = False
    conflict_penalty: float = 0.1
    stop_ratio: float | None = None
    fisher: "Fisher" = "full"
    max_length: int = 2048
    batch_size: int = 8
    seed: int = 0
    id_column: str | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        from hf_gip.core.spice import check_spice_options
        from hf_gip.core.validation import check_bool, check_int
        from hf_gip.features.per_example_gradients import check_target_modules

        _make_plain(self)
        check_spice_options(
            self.alpha, self.absolute_alpha, self.conflict_penalty, self.stop_ratio, self.fisher, self.window
        )
        check_bool("normalize", self.normalize)
        check_int("update_every", self.update_every, optional=True)
        if self.update_every is not None and self.window is None:
            raise ValueError(
                "`window` must be a number of rows where the proxy is trained between windows, got None: add "
                "`update_every=None` to choose from all rows at once."
            )
        check_target_modules(self.target_modules)
        if self.update_every is not None and self.target_modules == "hidden":
            raise ValueError("`target_modules='hidden'` are no weights to train: add `update_every=None`.")
        _check_sizes(self)

    @classmethod
    def from_record(
        cls,
        parameters: Mapping[str, Any],
        recipe: Mapping[str, Any],
        *,
        id_column: str | None = None,
        device: str | None = None,
    ) -> "SpiceOptions":
        """The options that a record or a manifest holds; those that change no pick have their defaults.

        Args:
            parameters: The method's recorded parameters.
            recipe: The rest of the record, of which `features` is read.
            id_column: The column that names the rows, *optional*.
            device: Torch device, *optional*.
        """
        return cls(
            **{name: parameters[name] for name in SPICE_PARAMETERS},
            **_recorded(recipe["features"], ("target_modules", "max_length")),
            id_column=id_column,
            device=device,
        )


SPICE_PARAMETERS = (  # as a manifest records them
    *("projection_dim", "window", "update_every", "normalize", "alpha", "absolute_alpha"),
    *("conflict_penalty", "stop_ratio", "fisher", "seed"),
)


@dataclass(frozen=True)
class GtpOptions:
    """The options of `hf_gip.gtp_select` and `hf_gip.gradient_trajectories`, which document them; checked when made.

    Raises:
        TypeError: If an option is of the wrong kind.
        ValueError: If one is out of its range, or two exclude each other.
    """

    checkpoints: Sequence[str | Path] | None = None
    learning_rates: Sequence[float] | None = None
    columns: Sequence[str] | None = None
    target_modules: str = "lora"
    subspace: Literal["random", "snapshots"] = "random"
    projection_dim: int | None = 4096
    adam: bool = False
    normalize: bool = True
    ridge: float | None = None
    warmup_fraction: float = 0.05
    warmup_epochs: int = 4
    warmup_learning_rate: float = 2e-5
    max_length: int = 2048
    batch_size: int = 8
    seed: int = 0
    id_column: str | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        from hf_gip.core.validation import brief, check_bool, check_choice, check_int, check_number, is_number
        from hf_gip.features.per_example_gradients import check_target_modules

        _make_plain(self)
        check_target_modules(self.target_modules, hidden=False)
        if self.target_modules == "hidden":
            raise ValueError(
                '`target_modules="hidden"` are no weights to train: name layers, or leave it out for LoRA.'
            )
        check_choice("subspace", self.subspace, ("random", "snapshots"))
        check_int("warmup_epochs", self.warmup_epochs)
        _check_sizes(self)
        check_bool("adam", self.adam)
        check_bool("normalize", self.normalize)
        check_number("ridge", self.ridge, optional=True)
        if not is_number(self.warmup_fraction) or not 0 < self.warmup_fraction <= 1:
            raise ValueError(
                f"`warmup_fraction` must be a part of the pool in (0, 1], got {brief(self.warmup_fraction)}."
            )
        if not is_number(self.warmup_learning_rate) or self.warmup_learning_rate <= 0:
            raise ValueError(
                f"`warmup_learning_rate` must be a positive number, got {brief(self.warmup_learning_rate)}."
            )
        if self.learning_rates is not None and self.checkpoints is None:
            raise ValueError("`learning_rates` belong to `checkpoints`, got none: the warm-up run knows its own.")

    @classmethod
    def from_record(
        cls,
        parameters: Mapping[str, Any],
        recipe: Mapping[str, Any],
        *,
        checkpoints: Sequence[str | Path] | None = None,
        id_column: str | None = None,
        device: str | None = None,
    ) -> "GtpOptions":
        """The options that a record or a manifest holds; those that change no pick have their defaults.

        Args:
            parameters: The method's recorded parameters.
            recipe: The rest of the record, of which `features`, `warm_up` and `checkpoints` are read.
            checkpoints: The Trainer's folders, where the record names such: it does not hold them.
            id_column: The column that names the rows, *optional*.
            device: Torch device, *optional*.
        """
        warm_up = recipe["warm_up"]
        return cls(
            checkpoints=checkpoints if warm_up is None else None,
            learning_rates=[point["rate"] for point in recipe["checkpoints"]] if warm_up is None else None,
            ridge=parameters["ridge"],
            **_recorded(recipe["features"], (*GRADIENT_FIELDS, "max_length")),
            **(warm_up or {}),
            id_column=id_column,
            device=device,
        )


GRADIENT_FIELDS = ("target_modules", "subspace", "adam", "normalize", "projection_dim", "seed")  # in a manifest
WARMUP_FIELDS = ("warmup_fraction", "warmup_epochs", "warmup_learning_rate")


def _recorded(features: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    columns = features["columns"] if "tokenizer" in features else None  # tokenized rows bring their own
    return {name: features[name] for name in names} | {"columns": columns}


def _make_plain(options: "SpiceOptions | GtpOptions") -> None:
    """Numbers of numpy and torch become Python's own, and the device is named."""
    from hf_gip.core.validation import check_device
    from hf_gip.dataset.values import plain_options

    for name, value in plain_options(vars(options)).items():
        object.__setattr__(options, name, value)
    object.__setattr__(options, "device", check_device(options.device))


def _check_sizes(options: "SpiceOptions | GtpOptions") -> None:
    from hf_gip.core.validation import check_int, check_seed

    check_int("max_length", options.max_length)
    check_int("batch_size", options.batch_size)
    check_int("projection_dim", options.projection_dim, optional=True)
    check_seed(options.seed)
