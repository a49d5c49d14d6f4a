"""A selection as one self-contained HTML page: figures, pictures, and a searchable table of the picks."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from hf_gip.disk import write_whole
from hf_gip.selection import Selection

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
    page = Template((files("hf_gip.page") / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(f"{len(selection):,} rows chosen by {record.get('method', 'a selector')}"),
        facts="".join(
            f"<span>{html.escape(name)}<b>{html.escape(value)}</b></span>" for name, value in _facts(selection)
        ),
        notes="".join(f'<p class="note">{html.escape(note)}</p>' for note in _notes(selection)),
        pictures="".join(_picture(words, figure) for words, figure in pictures),
        record=html.escape(json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False, default=str)),
        data=_data(selection, texts, columns, remarks),
    )
    write_whole(path, page, "free space there or choose another place")
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
