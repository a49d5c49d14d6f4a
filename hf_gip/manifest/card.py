"""The card of a subset: what `load_dataset`, the viewer and people read first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from hf_gip.manifest.schema import MANIFEST_PATH, SELECTION_PATH, Manifest
from hf_gip.manifest.slots import Slot

PICTURE_PATH = "gip/gains.png"
SELECTION_CONFIG = "selection"
WHY = {
    "gip": "Greedy information projection takes, pick by pick, the row that adds most to what the chosen rows capture "
    "of {aim} ([paper](https://huggingface.co/papers/2603.13790)).",
    "spice": "SPICE takes the rows whose gradients on a proxy model carry the most Fisher information and conflict "
    "least ([paper](https://huggingface.co/papers/2601.23155)).",
    "gtp": "Gradient trajectory pursuit takes rows, and weights for them, whose gradients together follow those of "
    "the target at every checkpoint ([paper](https://huggingface.co/papers/2410.16710)).",
}
AIMS = {"pool": "the pool itself", "texts": "the target texts"}
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


@dataclass(frozen=True, slots=True)
class Extras:
    """What a card may say besides the manifest.

    Attributes:
        place: What `load_subset` is called with: a repository, or `.` for the folder the card lies in.
        licence: The source's licence, where it is known.
        evidence: A Markdown table against random rows, or nothing.
        picture: Whether the gains are drawn beside the manifest.
    """

    place: str = "."
    licence: str | None = None
    evidence: str | None = None
    picture: bool = False


def card_text(manifest: Manifest) -> str:
    """`README.md` of a subset by itself: configurations of rows and selection, and its section."""
    slot = Slot("", manifest)
    return compose(card_metadata([slot]), f"{section(slot, Extras())}\n")


def compose(metadata: Mapping[str, Any], body: str) -> str:
    """A card from its metadata and its text."""
    import yaml

    return f"---\n{yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)}---\n\n{body.lstrip()}"


def card_metadata(slots: Sequence[Slot]) -> dict[str, Any]:
    """The YAML that subsets bring along: sources, size, tags and configurations."""
    sources = [name for slot in slots for name in source_names(slot.manifest)]
    rows = sum(slot.manifest.k for slot in slots)
    size = next((name for limit, name in SIZES if rows < limit), "n>10M")
    tags = ["data-selection", "hf-gip", *(slot.manifest.method for slot in slots)]
    origin = {"source_datasets": list(dict.fromkeys(sources))} if sources else {}
    return {**origin, "size_categories": [size], "tags": list(dict.fromkeys(tags)), "configs": card_configs(slots)}


def card_configs(slots: Sequence[Slot]) -> list[dict[str, Any]]:
    """The `configs` of the card's YAML: rows where they are included, and selections; the first is the default."""
    files: dict[str, list[dict[str, str]]] = {}
    for slot in slots:
        if slot.manifest.include_rows:
            entry = {"split": slot.manifest.split, "path": f"{slot.root}data/{slot.manifest.split}-*"}
            files.setdefault(slot.manifest.config_name, []).append(entry)
    for slot in slots:
        entry = {"split": slot.manifest.split, "path": f"{slot.root}{SELECTION_PATH}"}
        files.setdefault(selection_config(slot, slots), []).append(entry)
    configs: list[dict[str, Any]] = [{"config_name": name, "data_files": found} for name, found in files.items()]
    return [config | ({} if number else {"default": True}) for number, config in enumerate(configs)]


def selection_config(slot: Slot, slots: Sequence[Slot]) -> str:
    """The configuration that holds the picks of `slot`."""
    first, name = slots[0].manifest.config_name, slot.manifest.config_name
    return SELECTION_CONFIG if name == first else f"{SELECTION_CONFIG}-{name}"


def section(slot: Slot, extras: Extras) -> str:
    """The part of the card that is about one subset, between two marks."""
    manifest = slot.manifest
    source = manifest.source
    where = {
        "hub": f"[{source.repo_id}](https://huggingface.co/datasets/{source.repo_id}) at commit `{source.revision}`",
        "files": ", ".join(f"`{file.name}`" for file in source.files[:3]),
        "rows": f"a dataset of {source.num_rows:,} rows {_derived(manifest)}",
    }[source.kind]
    picture = f"![What each pick added]({slot.root}{PICTURE_PATH})\n\n" if extras.picture else ""
    evidence = f"## Against random rows\n\n{extras.evidence}\n\n" if extras.evidence else ""
    which = f', config_name="{manifest.config_name}", split="{manifest.split}"' if slot.root else ""
    return (
        Template(Path(__file__).with_suffix(".md").read_text(encoding="utf-8"))
        .substitute(
            begin=f"{mark(slot)} {manifest.digest} -->",
            end=mark(slot, closing=True),
            title=f"{manifest.k:,} rows chosen by {manifest.method} from {source.num_rows:,}",
            k=f"{manifest.k:,}",
            n=f"{source.num_rows:,}",
            method=manifest.method,
            source=where,
            why=_why(manifest),
            facts=_facts(manifest),
            evidence=evidence,
            picture=picture,
            place=extras.place,
            which=which,
            manifest=f"{slot.root}{MANIFEST_PATH}",
            picks=f"{slot.root}{SELECTION_PATH}",
            licence=_licence(manifest, extras.licence),
        )
        .strip()
    )


def source_names(manifest: Manifest) -> list[str]:
    """The repositories that the rows stem from."""
    source = manifest.source
    names = [source.repo_id, *(origin.repo_id for origin in source.origins)]
    return list(dict.fromkeys(name for name in names if name))


def _derived(manifest: Manifest) -> str:
    known = [origin for origin in manifest.source.origins if origin.repo_id is not None]
    links = [f"[{one.repo_id}](https://huggingface.co/datasets/{one.repo_id}) at `{one.revision}`" for one in known]
    if len(known) < len(manifest.source.origins):
        links += ["other rows"] if links else []
    return f"derived from {' and '.join(links)}" if links else "made in memory"


def mark(slot: Slot, *, closing: bool = False) -> str:
    """What a section of a card begins or ends with."""
    return f"<!-- /hf-gip {slot.name} -->" if closing else f"<!-- hf-gip {slot.name}"


def _why(manifest: Manifest) -> str:
    queries = manifest.recipe.get("queries")
    kind = queries.get("kind", "") if isinstance(queries, dict) else ""
    aim = AIMS.get(kind, "the target")
    return WHY.get(manifest.method, f"The rows were chosen by `{manifest.method}`.").format(aim=aim)


def _facts(manifest: Manifest) -> str:
    share = {} if manifest.captured is None else {"captured": f"{manifest.captured:.2%} of what there is to capture"}
    plain = {name: value for name, value in manifest.parameters.items() if not isinstance(value, dict | list)}
    facts = {"rows": f"{manifest.k:,} of {manifest.source.num_rows:,}", "objective": f"{manifest.objective:.6g}"}
    shown = {**facts, **share, **{f"`{name}`": f"`{value}`" for name, value in plain.items() if name != "k"}}
    return "\n".join(f"| {name} | {value} |" for name, value in shown.items())


def _licence(manifest: Manifest, licence: str | None) -> str:
    known = (
        f"`{licence}`, the licence of the source" if licence else "that of the source, which this card does not know"
    )
    if manifest.include_rows:
        return f"The rows stay under the licence they came with: {known}."
    return f"Positions and hashes only, no rows. The rows themselves are under the licence they came with: {known}."
