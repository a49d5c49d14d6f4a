"""One page about a selection."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from os import PathLike
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset

from hf_gip.core.explain import summarize_picks
from hf_gip.core.matrix import load_matrix
from hf_gip.core.metrics import captured_share
from hf_gip.dataset.inputs import GipInputs, GipProblem
from hf_gip.features.text import iter_texts, text_recipe
from hf_gip.io import check_path, write_text_atomically
from hf_gip.plots import plot_gains, plot_histogram, plot_map
from hf_gip.selection import Selection, query_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure


WORDS = 400  # characters of a row's text shown


def write_page(
    path: str | Path,
    selection: Selection,
    *,
    texts: Sequence[str],
    pictures: "Sequence[tuple[str, Figure]]" = (),
    columns: Mapping[str, Sequence[Any]] | None = None,
    remarks: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write the page: no request leaves it, nothing in it is executed but its own search.

    Args:
        path: Where to write; replaced if it exists.
        selection: The picks.
        texts: One text per pick, in pick order.
        pictures: (description, figure) in order of appearance.
        columns: More columns of figures for the table, each with one value per pick.
        remarks: The same for columns of a few words.

    Returns:
        The path.

    Raises:
        ValueError: If `texts` or a column does not have one value per pick, or `path` is a folder.
    """
    if Path(path).is_dir():
        raise ValueError(f"`path` must be a file to write, got the folder {str(path)!r}: add a name, as report.html.")
    columns, remarks = dict(columns or {}), dict(remarks or {})
    for name, values in {"texts": texts, **columns, **remarks}.items():
        if len(values) != len(selection):
            raise ValueError(f"`{name}` must hold one value per pick ({len(selection)}), got {len(values)}.")
    record = selection.record
    page = Template((files("hf_gip.dataset") / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(f"{len(selection):,} rows chosen by {record.get('method', 'a selector')}"),
        facts="".join(
            f"<span>{html.escape(name)}<b>{html.escape(value)}</b></span>" for name, value in _facts(selection)
        ),
        notes="".join(f'<p class="note">{html.escape(note)}</p>' for note in _notes(selection)),
        pictures="".join(_picture(words, figure) for words, figure in pictures),
        record=html.escape(json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False, default=str)),
        data=_data(selection, texts, columns, remarks),
    )
    write_text_atomically(path, page, "free space there or choose another place")
    return Path(path)


def _facts(selection: Selection) -> list[tuple[str, str]]:
    source = selection.record.get("source", {})
    facts = [("chosen", f"{len(selection):,}")]
    if "num_rows" in source:
        facts.append(("of", f"{source['num_rows']:,} rows"))
    facts.append(("objective", f"{selection.objective:.5g}"))
    if selection.captured is not None:
        facts.append(("captured", f"{selection.captured:.1%}"))
    return [*facts, ("returns flatten at", f"{selection.flattens_at():,}")]


def _notes(selection: Selection) -> list[str]:
    half = selection.flattens_at()
    share = float(selection.gains[:half].sum() / selection.gains.sum().clamp(min=1e-300))
    first = f"The first {half:,} picks hold" if half > 1 else "The first pick holds"
    advice = f"{first} {share:.0%} of what all {len(selection):,} hold; later ones add less than "
    return [*selection.record.get("notes", []), advice + "the average pick."]


def _picture(words: str, figure: "Figure") -> str:
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=130)
    encoded = base64.b64encode(image.getvalue()).decode()
    return f'<img alt="{html.escape(words)}" src="data:image/png;base64,{encoded}">'


def _data(
    selection: Selection,
    texts: Sequence[str],
    columns: Mapping[str, Sequence[Any]],
    remarks: Mapping[str, Sequence[str]],
) -> str:
    """Columns and rows as JSON that cannot end the script element it stands in."""
    kinds = [("number", ("pick", "row", "gain", *columns)), ("remark", remarks), ("words", ("text",))]
    names = [{"name": name, "kind": kind} for kind, several in kinds for name in several]
    figures = zip(
        selection.indices.tolist(), selection.gains.tolist(), *columns.values(), *remarks.values(), strict=True
    )
    rows = [
        [str(rank), str(row), f"{gain:.4g}", *map(str, more), text if len(text) <= WORDS else text[: WORDS - 1] + "…"]
        for rank, ((row, gain, *more), text) in enumerate(zip(figures, texts, strict=True), start=1)
    ]
    content = json.dumps({"columns": names, "rows": rows}, ensure_ascii=False)
    return content.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


RANDOM_SIZES, RANDOM_SEEDS = 8, 5  # of the band beside the gains


def write_report(subset: Dataset, path: str | PathLike[str]) -> Path:
    """Write one self-contained HTML page about a subset: figures, gains, a searchable table of its rows.

    Where the selection still knows its pool (`gip_select` in this process), the page also shows the pool with the
    picks, score and length histograms, and the band that random subsets reach.

    Args:
        subset: The result of a selecting function or of `load_subset`.
        path: Where to write the page.

    Returns:
        The path.

    Raises:
        TypeError: If `path` names nothing.
        ValueError: If the dataset has no selection.
    """
    selection = getattr(subset, "selection", None)
    if not isinstance(selection, Selection):
        raise ValueError(
            "`subset` must be the result of a selecting function or of `load_subset`, got a dataset without "
            "`selection`: transforms drop it, report before them."
        )
    check_path("path", path, "a file to write, such as 'report.html'")
    if selection.context is not None:
        return selection.context.report(selection, path)
    pictures = [("What each pick added", plot_gains(selection))]
    texts, columns = _read_texts(subset, selection.record) or [""] * len(subset), _weight_and_curve_columns(selection)
    return write_page(Path(path), selection, texts=texts, pictures=pictures, columns=columns)


def _weight_and_curve_columns(selection: Selection) -> dict[str, Sequence[Any]]:
    """What the selection itself knows of its picks: weights, for each target where there are several, and curves."""
    columns = {} if selection.weights is None else {"weight": selection.weights}
    tasks = [task["name"] for task in selection.record.get("target") or []]
    for name, curve in selection.curves.items():
        number = name.removeprefix("weight_")
        is_task = name != number and number.isdigit() and int(number) < len(tasks)
        columns[f"weight for {tasks[int(number)]}" if is_task else name] = curve
    return {name: [f"{value:.4g}" for value in curve.tolist()] for name, curve in columns.items()}


def write_gip_page(
    path: str | PathLike[str], selection: Selection, pool: Dataset, inputs: GipInputs, problem: GipProblem
) -> Path:
    """The page with everything that the pool, its features and its scores can show."""
    features, picks = inputs.load_matrix(), selection.indices
    target = inputs.load_target(features.shape[1], features.dtype)
    columns, remarks = _summary_columns(selection, inputs, problem)
    random = None
    noise = float(selection.record["parameters"]["noise"])
    if selection.record["parameters"]["objective"] == "projection" and inputs.scores is None and noise > 0:
        random = _random_band(load_matrix(problem.rows()), problem.queries, len(selection), noise)
    pictures = [
        ("What each pick added, beside random subsets", plot_gains(selection, random=random)),
        (
            "The pool on its first two principal components, with the picks",
            plot_map(features, selection, None if target is None else target.matrix),
        ),
    ]
    if inputs.scores is not None:
        for name, scores in zip(inputs.scores.names, inputs.scores.values.T, strict=True):
            pictures.append((f"{name} of pool and picks", plot_histogram(scores, scores[picks], name)))
            columns[name] = [f"{value:g}" for value in scores[picks].tolist()]
    texts = _read_texts(pool, selection.record)
    if texts is not None:
        lengths = torch.tensor([float(len(text)) for text in texts])
        pictures.append(("Text lengths", plot_histogram(lengths, lengths[picks], "characters")))
    texts = [""] * len(selection) if texts is None else [texts[row] for row in picks.tolist()]
    return write_page(Path(path), selection, texts=texts, pictures=pictures, columns=columns, remarks=remarks)


def _summary_columns(
    selection: Selection, inputs: GipInputs, problem: GipProblem
) -> tuple[dict[str, Sequence[Any]], dict[str, Sequence[str]]]:
    """Columns of the table: how new each pick was; what it served, and which earlier pick it repeats."""
    summary = summarize_picks(
        selection,
        load_matrix(problem.matrix),
        problem.queries,
        precision=inputs.precision(),
        names=problem.query_names,
    )
    picks = selection.indices.tolist()
    remarks: dict[str, Sequence[str]] = {}
    if any(summary.served):
        remarks["serves"] = [
            ", ".join(f"{query_name(query)} ({share:.0%})" for query, share in served) for served in summary.served
        ]
    remarks["most like"] = [
        f"row {picks[rank]:,} ({cosine:.2f})" if rank >= 0 else ""
        for rank, cosine in zip(summary.most_similar.tolist(), summary.cosine.tolist(), strict=True)
    ]
    return {"new": [f"{share:.0%}" for share in summary.novelty.tolist()]}, remarks


def _random_band(matrix: torch.Tensor, queries: torch.Tensor | None, k: int, noise: float) -> dict[int, list[float]]:
    sizes = sorted({max(1, round(k * step / RANDOM_SIZES)) for step in range(1, RANDOM_SIZES + 1)})
    orders = [
        torch.randperm(len(matrix), generator=torch.Generator().manual_seed(seed)) for seed in range(RANDOM_SEEDS)
    ]
    return {size: [captured_share(matrix, queries, order[:size], noise) for order in orders] for size in sizes}


def _read_texts(dataset: Dataset, record: Mapping[str, Any]) -> list[str] | None:
    """The texts that the rows were chosen by, else those of a known layout; None for rows of vectors alone."""
    features = record.get("features", {})
    if features.get("kind") == "text":
        template = features.get("template")
        recipe = text_recipe(dataset, features["columns"] if template is None else None, template)
        return list(iter_texts(dataset, recipe))
    try:
        return list(iter_texts(dataset, text_recipe(dataset)))
    except ValueError:
        return None
