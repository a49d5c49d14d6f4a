"""The paper's figures about single rows: how information decays along a set, and overlap against conflict."""

import math
from pathlib import Path

import torch
from torch import Tensor

from hf_gip.core.metrics import random_sets
from hf_gip.core.spice import SpiceOptions, conflict_with_chosen, new_fisher_state

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "spice.svg"


def ranks(values: Tensor) -> Tensor:
    """Ranks as numbers; real gradients do not tie."""
    return values.argsort().argsort().double()


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation."""
    return float(torch.corrcoef(torch.stack([ranks(a), ranks(b)]))[0, 1])


def trace_set(G: Tensor, picks: Tensor, alpha: float) -> dict[str, Tensor]:
    """What each of `picks` added in its turn, its share of what it holds alone, overlap and conflict."""
    chosen = G[picks].double()
    state = new_fisher_state(SpiceOptions(alpha, 0.0, None, "full"), len(picks), chosen[0])
    energy = chosen.square().sum(dim=1)
    single_information = torch.log1p(alpha * energy)
    gains = []
    for number in range(len(picks)):
        gains.append(math.log1p(alpha * float(energy[number])))
        energy = state.add(chosen, chosen[number], energy, energy[number])
    before = chosen.cumsum(dim=0) - chosen
    norms, totals = chosen.norm(dim=1), before.norm(dim=1)
    conflict = conflict_with_chosen(
        (chosen * before).sum(dim=1)[1:], norms[1:], totals[1:], torch.arange(1, len(picks))
    )
    gain = torch.tensor(gains, dtype=torch.float64)
    return {
        "gain": gain,
        "share": gain / single_information,
        "overlap": gain - single_information,
        "conflict": torch.cat([conflict[:0].new_zeros(1), conflict]),
    }


def compare_candidates(G: Tensor, size: int, alpha: float) -> dict[str, Tensor]:
    """Every row beside `size` random ones: gain and |ε| as shares of what it holds alone, signed cosine."""
    [base] = random_sets(len(G), size, 1, seed=7)
    rest = torch.ones(len(G), dtype=torch.bool)
    rest[base] = False
    rows, chosen = G[rest].double(), G[base].double()
    basis = torch.linalg.cholesky(chosen @ chosen.T + torch.eye(size, dtype=torch.float64) / alpha)
    shadow = torch.linalg.solve_triangular(basis, chosen @ rows.T, upper=False)
    energy = rows.square().sum(dim=1)
    gain = torch.log1p(alpha * (energy - shadow.square().sum(dim=0)).clamp_min(0))
    total = chosen.sum(dim=0)
    cosine = rows @ total / (energy.sqrt() * total.norm())
    share = gain / torch.log1p(alpha * energy)
    return {"gain": share, "overlap": 1 - share, "cosine": cosine}


def draw(traces: dict[str, dict[str, Tensor]], overlaps: dict[str, Tensor]) -> None:
    """The picture: gains kept along the run in sets of low and high conflict, and overlap against conflict."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "spice"
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for name, line in traces.items():
        smooth = line["share"].unfold(0, 8, 1).mean(dim=1)
        left.plot(range(8, 8 + len(smooth)), smooth, label=f"{name}: conflict {float(line['conflict'].mean()):.2f}")
    left.set(xlabel="pick", ylabel="share of its own information a pick adds", title="Information decays")
    left.legend()
    conflict = (-overlaps["cosine"]).clamp_min(0)
    conflicting = conflict > 0
    right.scatter(conflict[conflicting], overlaps["overlap"][conflicting], s=3, rasterized=False)
    right.set(
        xlabel="conflict with 64 random rows", ylabel="|ε|, information taken away, nats", title="Overlap and conflict"
    )
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, metadata={"Date": None})


def by_conflict(G: Tensor, size: int, alpha: float) -> dict[str, dict[str, Tensor]]:
    """Two sets of rows of like length, grown to agree with, or to pull against, the rows before."""
    norms = G.norm(dim=1)
    mid_norm_rows = norms.argsort()[len(G) // 4 : 3 * len(G) // 4]
    unit = torch.nn.functional.normalize(G[mid_norm_rows].double(), dim=1)
    traces = {}
    for name, sign in (("agreeing", 1.0), ("pulling against", -1.0)):
        picks, free, total = [0], torch.ones(len(unit), dtype=torch.bool), unit[0].clone()
        free[0] = False
        while len(picks) < size:
            score = (sign * (unit @ total)).masked_fill(~free, -torch.inf)
            picks.append(int(score.argmax()))
            free[picks[-1]] = False
            total += unit[picks[-1]]
        traces[name] = trace_set(G, mid_norm_rows[torch.tensor(picks)], alpha)
    return traces


def figures(G: Tensor, k: int, alpha: float) -> dict[str, float]:
    """All of them, and the picture."""
    traces, overlaps = by_conflict(G, k, alpha), compare_candidates(G, 64, alpha)
    conflict = overlaps["cosine"] < 0
    draw(traces, overlaps)
    return {
        "conflicting rows": float(conflict.sum()),
        "conflict against |ε|, Spearman": spearman(-overlaps["cosine"][conflict], overlaps["overlap"][conflict]),
        "conflict against gain, Spearman": spearman(-overlaps["cosine"][conflict], overlaps["gain"][conflict]),
        "|cos| against |ε|, all rows, Spearman": spearman(overlaps["cosine"].abs(), overlaps["overlap"]),
        **{
            f"share of its own information the last quarter of picks adds, {name}": float(
                line["share"][-k // 4 :].mean()
            )
            for name, line in traces.items()
        },
    }
