"""What a round tells the trainer's logs."""

from transformers import Trainer

from .rounds import Round


def report_round(trainer: Trainer, chosen: Round, earlier: Round | None) -> None:
    """Log a round's scalars: how many rows, how many of them are old, what they hold, what they cost."""
    scalars = {
        "gip/selected": float(len(chosen.rows)),
        "gip/overlap_prev": chosen.overlap(earlier),
        "gip/captured": chosen.captured,
        "gip/feature_seconds": chosen.seconds["features"],
        "gip/select_seconds": chosen.seconds["select"],
    }
    trainer.log({name: value for name, value in scalars.items() if value is not None})


def report_epoch(trainer: Trainer, chosen: Round, seconds: float) -> None:
    """Log the selection's share of an epoch that took `seconds` to train."""
    spent = sum(chosen.seconds.values())
    trainer.log({"gip/share_of_epoch": spent / (spent + seconds)})
