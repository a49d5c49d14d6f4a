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
    (f"{MIXED} | target share", "GIP's picks are {GIP target | %} GSM8K, random's {random | %}."),
    (f"{MIXED} | target share", "find more of them ({RDS+ | %} and more)"),
    (
        LOSS,
        f"GSM8K loss after as many steps is {{GIP target | {STEPS} | .2f}} on GIP's picks, {{random | {STEPS} | .2f}}",
    ),
    (LOSS, f"on random ones ({gap('GIP target', STEPS)});"),
    (
        LOSS,
        f"`RDS+` {gap('RDS+', STEPS)}, LESS {gap('LESS', STEPS)}, GTP {gap('GTP target', STEPS)}.",
    ),
    (f"{NOISY} | junk", "junk is {random | %} for random, {GIP cover | %} for GIP covering the pool,"),
    (f"{NOISY} | junk", "{GIP target | %} towards clean rows, {facility location | %} for facility location."),
    (BBH, "{GIP cover | k = 27 | .2f} against {random | k = 27 | .2f} balanced accuracy at 27 labels,"),
    (BBH, "{GIP cover | k = 135 | .2f} against {random | k = 135 | .2f} at 135."),
    (f"{MIXED} | coverage", "{facility location | .3f} against {GIP cover | .3f}, random {random | .3f}."),
    (f"{MIXED} | length", "({SPICE windows | .0f} characters against {random | .0f})"),
    (f"{MIXED} | length", "of unit length its answers are as long as random's ({SPICE windows, unit length | .0f}),"),
    (f"{NOISY} | junk", "junk is no more ({SPICE windows, unit length | %} against {random | %}),"),
    (LOSS, f"and it ties with random in BBH and in GSM8K loss ({gap('SPICE windows, unit length', STEPS)})"),
    (ALPACA, f"BBH loss falls by {gap('GTP target', BBH_STEPS)} (GTP),"),
    (
        ALPACA,
        f"{gap('LESS', BBH_STEPS)} (LESS), {gap('GIP target', BBH_STEPS)} (GIP) and {gap('RDS+', BBH_STEPS)} (`RDS+`)",
    ),
    (FULL, f"the whole pool gives {{full | {STEPS} | .2f}} after as many steps,"),
    (FULL, "as many steps, {full | gsm8k after epochs | .2f} after two"),
    (FULL_ALPACA, f"all of it gives {{full | {BBH_STEPS} | .2f}} after as many steps and"),
    (FULL_ALPACA, "as many steps and {full | bbh after epochs | .2f} after two"),
    (LOSS_NOISY, "Alpaca loss is {random | alpaca after steps | .3f} on random rows"),
]
SENTENCES = {"README.md": README, "docs/benchmarks.md": SUMMARY, DETAILS_PAGE: DETAILS}
