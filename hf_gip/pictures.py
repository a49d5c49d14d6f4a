"""Pictures of a selection, with matplotlib (`pip install 'hf-gip[plot]'`)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from hf_gip.core.selection import Selection

INK, ACCENT, POOL = "#1f2937", "#d97706", "#cbd5e1"


def plot_gains(selection: "Selection", *, ax: "Axes | None" = None) -> "Figure":
    """Draw what each pick added, and how much of the total was reached by then.

    Args:
        selection: What a selector returned.
        ax: Axes to draw into, instead of a new figure.

    Returns:
        The figure.
    """
    ax = ax or _new_axes()
    steps = range(1, len(selection) + 1)
    ax.plot(steps, selection.gains.numpy(), color=INK, linewidth=1.2)
    ax.set(xlabel="picks", ylabel="gain of the pick", yscale="log", title="What each pick added")
    if selection.total:
        share = ax.twinx()
        share.plot(steps, (selection.gains.cumsum(0) / selection.total).numpy(), color=ACCENT, linewidth=1.8)
        share.set(ylabel="share captured")
        share.set_ylim(0, 1)
        share.yaxis.label.set_color(ACCENT)
    return _figure(ax)


def plot_map(
    features: "Tensor", selection: "Selection", queries: "Tensor | None" = None, *, ax: "Axes | None" = None
) -> "Figure":
    """Draw the pool on its first two principal components, with the picks (and the target) on it.

    Args:
        features: The pool's vectors, (n, d).
        selection: What a selector chose from them.
        queries: The target's vectors, (m, d), drawn as crosses.
        ax: Axes to draw into, instead of a new figure.

    Returns:
        The figure.
    """
    import torch

    ax = ax or _new_axes()
    pool = features.float()
    centre = pool.mean(dim=0)
    _, directions = torch.linalg.eigh((pool - centre).T @ (pool - centre))
    plane = directions[:, -2:].flip(1)
    for points, style in (
        (pool, {"s": 4, "color": POOL, "label": f"pool ({len(pool):,})"}),
        (pool[selection.indices], {"s": 14, "color": INK, "label": f"chosen ({len(selection):,})"}),
        (queries, {"s": 40, "color": ACCENT, "marker": "x", "label": "target"}),
    ):
        if points is not None:
            at = (points.float() - centre) @ plane
            ax.scatter(at[:, 0].numpy(), at[:, 1].numpy(), **style)
    ax.set(xlabel="first principal component", ylabel="second", title="The pool and the picks")
    ax.legend(loc="best", frameon=False)
    return _figure(ax)


def _new_axes() -> "Axes":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'hf-gip[plot]'.") from error
    return Figure(figsize=(7, 4.5), layout="constrained").add_subplot()


def _figure(ax: "Axes") -> "Figure":
    figure = ax.get_figure(root=True)
    assert figure is not None  # an axes that was just drawn into has one
    return figure
