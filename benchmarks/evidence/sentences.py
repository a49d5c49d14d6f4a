"""Sentences and table lines with figures, by page: where the rows are, and a template of the text."""

MIXED, NOISY = "selection | mixed | 0.05", "selection | noisy | 0.05"
LOSS, LOSS_NOISY = "sft | mixed | 0.05", "sft | noisy | 0.05"
ALPACA, FULL, FULL_ALPACA = "sft | alpaca | 0.05", "sft | mixed | 1.0", "sft | alpaca | 1.0"
BBH = "probe | BBH task"
STEPS, BBH_STEPS = "gsm8k after steps", "bbh after steps"
DETAILS_PAGE = "benchmarks/results/quality_details.md"


def gap(method: str, measure: str, digits: int = 2) -> str:
    """A difference to random and its interval."""
    return f"{{{method} | {measure} | Δ+.{digits}f}} ± {{{method} | {measure} | ±.{digits}f}}"


README = [
    (f"{MIXED} | target share", "({GIP target | %} of the picks against {random | %})"),
    (LOSS, f"(GSM8K loss {gap('GIP target', STEPS)} against random's rows)"),
    (ALPACA, f"(BBH loss {gap('GTP target', BBH_STEPS)} with GTP)"),
    (f"{NOISY} | junk", "({GIP target | %} to {GIP cover | %} of the picks against {random | %})"),
    (BBH, "({GIP cover | k = 27 | .2f} against {random | k = 27 | .2f} accuracy at 27 labels)"),
]
SUMMARY = [
    (
        f"{MIXED} | target share",
        "| share of the task in the picks | {random | %} | {GIP target | %} | RDS+ {RDS+ | %} |",
    ),
    (
        LOSS,
        f"| GSM8K loss | {{random | {STEPS} | .2f}} | {gap('GIP target', STEPS)} | RDS+ {gap('RDS+', STEPS)}, "
        f"LESS {gap('LESS', STEPS)}, GTP {gap('GTP target', STEPS)} |",
    ),
    (
        ALPACA,
        f"| BBH loss | {{random | {BBH_STEPS} | .2f}} | {gap('GIP target', BBH_STEPS)} | "
        f"GTP {gap('GTP target', BBH_STEPS)}, LESS {gap('LESS', BBH_STEPS)}, RDS+ {gap('RDS+', BBH_STEPS)} |",
    ),
    (
        f"{NOISY} | junk",
        "without a target | share of junk in the picks | {random | %} | {GIP cover | %} "
        "| facility location {facility location | %} |",
    ),
    (
        f"{NOISY} | junk",
        "with clean rows as the target | share of junk in the picks | {random | %} | {GIP target | %} "
        "| LESS {LESS | %} |",
    ),
    (
        BBH,
        "| balanced accuracy | {random | k = 27 | .2f} | {GIP cover | k = 27 | .2f} "
        "| facility location {facility location | k = 27 | .2f} |",
    ),
    (
        f"{MIXED} | coverage",
        "| coverage of held-out rows | {random | .3f} | {GIP cover | .3f} "
        "| facility location {facility location | .3f} |",
    ),
]
DETAILS = [
    (f"{MIXED} | target share", "GSM8K is {GIP target | %} of GIP's picks, and {random | %} of random's."),
    (f"{MIXED} | target share", '"nearest to the mean query" find {RDS+ | %} and more'),
    (
        LOSS,
        f"GSM8K loss is {{GIP target | {STEPS} | .2f}} with GIP's picks and {{random | {STEPS} | .2f}} with random",
    ),
    (
        LOSS,
        f"random are {gap('GIP target', STEPS)} (GIP), {gap('RDS+', STEPS)} (`RDS+`), {gap('LESS', STEPS)} (LESS) and "
        f"{gap('GTP target', STEPS)} (GTP).",
    ),
    (
        ALPACA,
        f"BBH loss to random are {gap('GTP target', BBH_STEPS)} (GTP), {gap('LESS', BBH_STEPS)} (LESS), "
        f"{gap('GIP target', BBH_STEPS)} (GIP) and {gap('RDS+', BBH_STEPS)} (`RDS+`)",
    ),
    (
        f"{NOISY} | junk",
        "junk is {random | %} for random, {GIP cover | %} for GIP covering the pool, {GIP target | %} for GIP towards "
        "clean rows, and {facility location | %} for facility location.",
    ),
    (BBH, "{GIP cover | k = 27 | .2f} against {random | k = 27 | .2f} for random rows at 27 labels,"),
    (BBH, "and {GIP cover | k = 135 | .2f} against {random | k = 135 | .2f} at 135."),
    (
        f"{MIXED} | coverage",
        "reaches {facility location | .3f}, GIP {GIP cover | .3f}, random {random | .3f}.",
    ),
    (f"{MIXED} | length", "({SPICE windows | .0f} characters against {random | .0f} for random)"),
    (f"{MIXED} | length", "its answers have {SPICE windows, unit length | .0f} characters,"),
    (f"{NOISY} | junk", "and junk is {SPICE windows, unit length | %} against {random | %}."),
    (LOSS, f"ties with random in BBH loss and in GSM8K loss ({gap('SPICE windows, unit length', STEPS)})."),
    (FULL, f"the whole pool gives {{full | {STEPS} | .2f}} after as many steps,"),
    (FULL, "as many steps, and {full | gsm8k after epochs | .2f} after two epochs"),
    (FULL_ALPACA, f"The whole pool gives {{full | {BBH_STEPS} | .2f}} after as many steps and"),
    (FULL_ALPACA, "as many steps and {full | bbh after epochs | .2f} after two"),
    (LOSS_NOISY, "The Alpaca loss is {random | alpaca after steps | .3f} with random rows"),
]
SENTENCES = {"README.md": README, "docs/benchmarks.md": SUMMARY, DETAILS_PAGE: DETAILS}
