"""Draw the pictures of the README and of docs/concepts.md: `python docs/pictures/make.py`."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from hf_gip import gip, plot_gains
from hf_gip.core.metrics import captured_share

HERE = Path(__file__).parent


def clusters(seed: int = 0) -> torch.Tensor:
    """600 points in the plane: most in one place, some in others."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[1.0, 0.25], [0.55, 0.9], [-0.3, 1.0], [-0.9, 0.1]])
    counts = torch.tensor([350, 150, 70, 30])
    return centres.repeat_interleave(counts, 0) + 0.13 * torch.randn(600, 2, generator=draw)


def ridge() -> None:
    """The same pool and target under a small, a middle and a large ridge."""
    rows, query = clusters(), torch.tensor([[0.35, 1.0]])
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.1), sharex=True, sharey=True, layout="constrained")
    for axis, noise in zip(axes, (0.01, 1.0, 100.0), strict=True):
        picks = gip(rows, query, 12, noise=noise).indices
        axis.scatter(*rows.T, s=5, color="0.75", label="pool")
        axis.scatter(*rows[picks].T, s=22, color="tab:orange", label="picks")
        axis.annotate("", query[0].tolist(), (0, 0), arrowprops={"arrowstyle": "->", "color": "tab:blue", "lw": 2})
        axis.set_title(f"noise = {noise:g}", fontsize=10)
        axis.set_aspect("equal")
    axes[0].legend(loc="lower left", fontsize=8)
    figure.savefig(HERE / "ridge.png", dpi=110)


def gains() -> None:
    """What each pick adds on a pool of many directions, beside random subsets."""
    draw = torch.Generator().manual_seed(0)
    mix = torch.randn(64, 64, generator=draw) * torch.logspace(0, -1.5, 64)
    rows = torch.nn.functional.normalize(torch.randn(3_000, 64, generator=draw) @ mix, dim=1)
    found = gip(rows, None, 60, noise=0.1)
    orders = [torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)) for seed in range(5)]
    random = {size: [captured_share(rows, None, order[:size], 0.1) for order in orders] for size in range(5, 61, 5)}
    plot_gains(found, random=random).savefig(HERE / "gains.png", dpi=100)


if __name__ == "__main__":
    ridge()
    gains()
