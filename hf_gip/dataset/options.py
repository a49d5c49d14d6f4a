"""The arguments of `gip_select` that say what to choose by: their defaults, and which go together."""

from collections.abc import Mapping
from typing import Any

import torch

from hf_gip.core.gip import check_objective
from hf_gip.core.queries import default_ridge, precision_from_scores
from hf_gip.core.validation import brief, check_bool, is_number
from hf_gip.features.encoders import check_encoder_id

DEFAULTS: Mapping[str, Any] = {  # of every argument that says what to choose by
    "scores": None,
    "scores_as": "precision",
    "target": None,
    "target_weight": None,
    "cover": None,
    "features": None,
    "columns": None,
    "template": None,
    "encoder": None,
    "encoder_id": None,
    "objective": "projection",
    "noise": None,
    "diversity": None,
    "quality": None,
    "whiten": False,
    "exclude": None,
    "exclude_above": 0.9,
    "include": None,
    "group_column": None,
    "max_per_group": None,
    "min_per_group": None,
    "budget_tokens": None,
    "token_column": None,
    "device": None,
}


def check_options(options: Mapping[str, Any]) -> None:
    """Raise unless the arguments go together and the numbers are in their ranges; the data are not looked at.

    Raises:
        ValueError: Naming the argument, the value found and what to do.
    """
    _check_combinations(options)
    _check_scores_as(options)


def _check_combinations(options: Mapping[str, Any]) -> None:
    _check_numbers(options)
    check_bool("whiten", options["whiten"])
    check_encoder_id(options["encoder_id"], options["encoder"])
    check_objective(options["objective"], 1.0 if options["noise"] is None else options["noise"])
    if options["quality"] is not None and options["scores"] is None:
        raise ValueError("`quality` weighs scores, got no `scores`: name the score columns too.")
    if options["whiten"] and options["target"] is None:
        raise ValueError("`whiten` weighs the directions of a target, got no `target`.")
    if options["target_weight"] is not None and options["target"] is None:
        raise ValueError("`target_weight` weighs a target against the pool, got no `target`.")
    if options["features"] is not None:
        for name in ("columns", "template"):
            if options[name] is not None:
                raise ValueError(f"`{name}` chooses texts to embed and has no use beside `features`: leave one out.")


def _check_scores_as(options: Mapping[str, Any]) -> None:
    """Scores in place of a target stand alone.

    Raises:
        ValueError: If the name is unknown, there are no scores, or another option says what is wanted as well.
    """
    if not isinstance(options["scores_as"], str) or options["scores_as"] not in ("precision", "queries"):
        raise ValueError(f'`scores_as` must be "precision" or "queries", got {brief(options["scores_as"])}.')
    if options["scores_as"] == "precision":
        return
    if options["scores"] is None:
        raise ValueError('`scores_as="queries"` needs scores, got no `scores`: name the score columns too.')
    wanted = {"target": options["target"] is not None, "quality": options["quality"] is not None}
    wanted |= {name: options[name] is not None for name in ("cover", "group_column", "budget_tokens", "include")}
    wanted["objective"] = options["objective"] != "projection"
    if given := [name for name, found in wanted.items() if found]:
        raise ValueError(
            f'`{given[0]}` has no meaning beside `scores_as="queries"`, where the scores are what is wanted: leave '
            "one of them out."
        )


def _check_numbers(options: Mapping[str, Any]) -> None:
    if options["quality"] is not None:
        precision_from_scores(torch.zeros(1, 1), quality=options["quality"])  # refuses a bad value
    if options["noise"] is not None and options["diversity"] is not None:
        raise ValueError("`noise` and `diversity` must not both be given: `diversity` only moves the default noise.")
    if options["diversity"] is not None:
        default_ridge(1, 1, towards_target=False, diversity=options["diversity"])  # refuses a bad value
    above, weight = options["exclude_above"], options["target_weight"]
    if not is_number(above) or not 0 < above <= 1:
        raise ValueError(f"`exclude_above` must be a cosine in (0, 1], got {brief(above)}.")
    if weight is not None and not (is_number(weight) and 0 < weight <= 1):
        raise ValueError(f"`target_weight` must be above 0 and at most 1 (the target alone), got {brief(weight)}.")


def quality_of(options: Mapping[str, Any]) -> float:
    """The exponent on the scores' ranks."""
    return 1.0 if options["quality"] is None else float(options["quality"])
