"""SPICE on projected gradients compared with a literal transcription of the paper's loop: picks and speed.

Run `python benchmarks/spice.py`. The loop is run whole on a small pool; on the large one, a sample of its inner loop
is timed (every row costs the same at every choice) and multiplied out.

`python benchmarks/spice.py --picks` times nothing and certifies the picks on the large pools: the score that the loop
would give every row at every choice is computed in float64, so each pick is seen to be the loop's next one. At some
choices every row's information is also had as the loop has it, from the inverse of I + αF.
"""

import argparse
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from machine import write_results
from torch import Tensor

from hf_gip import spice

ALPHA, PENALTY = 1.0, 0.1
SAMPLED_ROWS = 2_000
SAMPLED_CHOICES = 3
CERTIFIED_AT_ONCE = 1_000  # rows


def make_pool(n: int, d: int, kind: str) -> Tensor:
    """Decaying spectrum and uneven lengths, as gradients of language models have; or isotropic, lengths alike."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(n, d, generator=generator)
    if kind == "isotropic":  # all gains alike: where lazy evaluation helps least
        return rows / d**0.5
    rows = rows * torch.arange(1, d + 1) ** -0.5
    return rows * torch.exp(0.5 * torch.randn(n, 1, generator=generator))


def literal_loop(gradients: Tensor, k: int) -> tuple[list[int], float]:
    """Choose `k` rows as the paper writes it: full Fisher matrix, one row after the other. Picks and information."""
    fisher = torch.eye(gradients.shape[1], dtype=torch.float64)
    total = torch.zeros(gradients.shape[1], dtype=torch.float64)
    picks: list[int] = []
    information = 0.0
    for _ in range(k):
        inverse = torch.linalg.inv(fisher)
        best, best_score, best_gain = -1, -math.inf, 0.0
        for row in range(len(gradients)):
            if row in picks:
                continue
            gain, score = score_of(gradients[row], inverse, total, len(picks))
            if score > best_score:
                best, best_score, best_gain = row, score, gain
        chosen = gradients[best].double()
        fisher += ALPHA * torch.outer(chosen, chosen)
        total += chosen
        picks.append(best)
        information += best_gain
    return picks, information


def score_of(gradient: Tensor, inverse: Tensor, total: Tensor, chosen: int) -> tuple[float, float]:
    """Information gain of one row, and its score."""
    g = gradient.double()
    gain = math.log1p(ALPHA * float(g @ inverse @ g))
    if not chosen:
        return gain, gain
    mean = total / chosen
    conflict = max(0.0, -float(g @ mean) / (float(g.norm() * mean.norm()) + 1e-8))
    return gain, gain - PENALTY * conflict


def estimate_literal_seconds(gradients: Tensor, k: int) -> float:
    """What `literal` would take, from one inverse and a sample of rows."""
    d = gradients.shape[1]
    fisher = torch.eye(d, dtype=torch.float64) + gradients[:64].double().T @ gradients[:64].double()
    started = time.perf_counter()
    inverse = torch.linalg.inv(fisher)
    inverted = time.perf_counter()
    total = gradients[:64].double().sum(dim=0)
    for row in range(64, 64 + SAMPLED_ROWS):
        score_of(gradients[row], inverse, total, 64)
    per_row = (time.perf_counter() - inverted) / SAMPLED_ROWS
    return k * (inverted - started) + per_row * (k * len(gradients) - k * (k - 1) / 2)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the paper's loop would do after each of our picks, (k,) each, in float64.

    Attributes:
        best: Highest score of any row still free.
        row: Whose it is.
        ours: Score of our pick.
        largest_error: Relative difference of any row's information from that of the inverse, at the sampled choices.
    """

    best: Tensor
    row: Tensor
    ours: Tensor
    largest_error: float


def certify_picks(gradients: Tensor, picks: Tensor) -> Certificate:
    """Every row's score at every choice, given the picks before: gᵀ(I + αF)⁻¹g by Woodbury's identity.

    With P the picks and LLᵀ = PPᵀ + I/α, the information of row g after t picks is ‖g‖² − Σ_{s<t} (L⁻¹Pg)ₛ².
    """
    chosen = gradients[picks].double()
    k = len(picks)
    factor = torch.linalg.cholesky(chosen @ chosen.T + torch.eye(k, dtype=torch.float64) / ALPHA)
    before = chosen.cumsum(dim=0) - chosen
    counts = torch.arange(k).clamp_min(1)[:, None]
    means = before.norm(dim=1)[:, None] / counts
    when = torch.full((len(gradients),), k)
    when[picks] = torch.arange(k)
    sampled = {round(k * (number + 1) / (SAMPLED_CHOICES + 1)): 0.0 for number in range(SAMPLED_CHOICES)}
    inverses = {
        at: torch.linalg.inv(torch.eye(gradients.shape[1], dtype=torch.float64) + ALPHA * chosen[:at].T @ chosen[:at])
        for at in sampled
    }
    best, row, ours = torch.full((k,), -math.inf, dtype=torch.float64), torch.zeros(k, dtype=torch.int64), [0.0] * k
    for start in range(0, len(gradients), CERTIFIED_AT_ONCE):
        rows = gradients[start : start + CERTIFIED_AT_ONCE].double()
        inner = chosen @ rows.T
        shadow = torch.linalg.solve_triangular(factor, inner, upper=False).square_()
        energy = rows.square().sum(dim=1) - (shadow.cumsum(dim=0) - shadow)
        for at, inverse in inverses.items():
            exact = ((rows @ inverse) * rows).sum(dim=1)
            sampled[at] = max(sampled[at], float(((energy[at] - exact) / exact).abs().max()))
        alignment = (inner.cumsum(dim=0) - inner) / counts
        conflict = (-alignment / (rows.norm(dim=1) * means + 1e-8)).clamp_min_(0)
        score = torch.log1p(ALPHA * energy) - PENALTY * conflict
        mine = when[start : start + len(rows)]
        for column in torch.nonzero(mine < k).flatten().tolist():
            ours[int(mine[column])] = float(score[mine[column], column])
        score.masked_fill_(torch.arange(k)[:, None] > mine, -math.inf)
        top, column = score.max(dim=1)
        row = torch.where(top > best, column + start, row)
        best = torch.maximum(best, top)
    return Certificate(best, row, torch.tensor(ours, dtype=torch.float64), max(sampled.values()))


def measure(n: int, d: int, k: int, kind: str, *, whole: bool) -> dict[str, Any]:
    """One line of the table."""
    gradients = make_pool(n, d, kind)
    started = time.perf_counter()
    chosen = spice(gradients, k, alpha=ALPHA, absolute_alpha=True, conflict_penalty=PENALTY)
    ours = time.perf_counter() - started
    line: dict[str, Any] = {
        "pool": kind,
        "n": n,
        "d": d,
        "k": k,
        "hf_gip_seconds": ours,
        "ms_per_pick": 1000 * ours / k,
    }
    line["rows_evaluated_share"] = chosen.record["evaluations"] / (n * k)
    if whole:
        started = time.perf_counter()
        picks, information = literal_loop(gradients, k)
        literal_time = time.perf_counter() - started
        line |= {"literal": "run whole", "same_picks": picks == chosen.indices.tolist()}
        line["information_ratio"] = float(chosen.gains.sum()) / information
    else:
        literal_time = estimate_literal_seconds(gradients, k)
        line |= {"literal": f"extrapolated from {SAMPLED_ROWS} rows and one inverse"}
    return line | {"literal_seconds": literal_time, "speedup": literal_time / ours}


def certify_pool(n: int, d: int, k: int, kind: str) -> dict[str, Any]:
    """One line about the picks."""
    gradients = make_pool(n, d, kind)
    picks = spice(gradients, k, alpha=ALPHA, absolute_alpha=True, conflict_penalty=PENALTY).indices
    certificate = certify_picks(gradients, picks)
    matches = certificate.row == picks
    return {
        "pool": kind,
        "n": n,
        "d": d,
        "k": k,
        "picks the loop would make": int(matches.sum()),
        "same_picks": bool(matches.all()),
        "largest shortfall, nats": float((certificate.best - certificate.ours).max()),
        "information against the inverse": certificate.largest_error,
    }


def main() -> None:
    """Measure both sizes, or certify the picks, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picks", action="store_true", help="certify the picks on the large pools")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    kinds = ("decaying", "isotropic")
    if arguments.picks:
        write_results(
            "spice_picks",
            [certify_pool(20_000, 1_024, 2_000, kind) for kind in kinds],
            command="python benchmarks/spice.py --picks",
            notes=[
                "Picks the loop would make: of our k, those with the highest score of all free rows after the picks "
                "before, in float64, every row at every choice. Largest shortfall: by how much a pick's score is "
                f"below the best. Information against the inverse: largest relative difference of any row at "
                f"{SAMPLED_CHOICES} choices. No figure here depends on the machine's load.",
            ],
        )
        return
    rows = [measure(1_000, 128, 60, kind, whole=True) for kind in kinds]
    rows += [measure(20_000, 1_024, 2_000, kind, whole=False) for kind in kinds]
    write_results(
        "spice",
        rows,
        command="python benchmarks/spice.py",
        notes=[
            "Full-matrix Fisher, conflict penalty 0.1, synthetic gradients. The literal loop inverts I + αF once per "
            "choice and scores one row after the other in float64, as the paper's equations read. Measured on a "
            "machine shared with other work: hf_gip_seconds of the first large pool was 2.3 to 10 between runs.",
        ],
    )


if __name__ == "__main__":
    main()
