"""The dataset card."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from hf_gip.manifest.licenses import license_names, one_or_list, strictest
from hf_gip.manifest.locations import Slot
from hf_gip.manifest.schema import MANIFEST_PATH, SELECTION_PATH, Manifest

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


THEIRS = ("language", "task_categories", "size_categories", "pretty_name")  # the owner's word counts


def merge_card(
    old: str | None, slots: Sequence[Slot], new: Sequence[tuple[Slot, Extras]], origin: Mapping[str, Any]
) -> str:
    """The card with the sections of the `new` subsets in it.

    A section whose subset is still the same is left as it is, an older one is replaced, and one that is not there is
    added at the end. Everything else of the text stays. Of the old licence and the rows' the strictest counts.

    Args:
        old: The card as it is, or None.
        slots: All subsets, the new ones among them.
        new: The subsets that are published now.
        origin: Metadata of the source: licence, language, tasks.

    Returns:
        The card.

    Raises:
        ValueError: If the old card's metadata is no YAML.
    """
    metadata, body = split_card(old or "")
    ours = {**origin, **card_metadata(slots)}
    for slot, extras in new:
        body = _put(body, slot, extras)
    return compose(_merged(metadata, ours, slots), body)


def split_card(text: str) -> tuple[dict[str, Any], str]:
    """Metadata and text of a card.

    Raises:
        ValueError: If its metadata is no YAML.
    """
    import yaml

    text = text.replace("\r\n", "\n")
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}, text
    try:
        metadata = yaml.safe_load(parts[1]) or {}
    except yaml.YAMLError:
        metadata = None
    if not isinstance(metadata, dict):
        raise ValueError("the card README.md must begin with YAML metadata, got something else: mend it first.")
    return metadata, parts[2]


def section_digest(old: str | None, slot: Slot) -> str | None:
    """The manifest digest that the card's section of `slot` was written for."""
    found = re.search(re.escape(mark(slot)) + r" ([0-9a-f]{64}) -->", old or "")
    return found[1] if found else None


def _put(body: str, slot: Slot, extras: Extras) -> str:
    begin, end = re.escape(mark(slot)), re.escape(mark(slot, closing=True))
    there = re.search(f"{begin} .*?{end}", body, re.DOTALL)
    if there is None:
        return f"{body.rstrip()}\n\n{section(slot, extras)}\n".lstrip()
    if section_digest(there[0], slot) == slot.manifest.digest:
        return body
    return body[: there.start()] + section(slot, extras) + body[there.end() :]


def _merged(old: dict[str, Any], ours: dict[str, Any], slots: Sequence[Slot]) -> dict[str, Any]:
    merged = {**old, **{name: value for name, value in ours.items() if name not in THEIRS or not old.get(name)}}
    if stricter := strictest([*license_names(old.get("license")), *license_names(ours.get("license"))]):
        unchanged = set(stricter) == set(license_names(old.get("license")))
        merged["license"] = old["license"] if unchanged else one_or_list(stricter)
    foreign = _foreign_configs(old.get("configs"), slots)
    if not foreign and old.get("configs"):
        merged["size_categories"] = ours["size_categories"]  # nothing but subsets here: the size is theirs
    for name in ("tags", "source_datasets"):
        if before := old.get(name):
            kept = before if isinstance(before, list) else [before]
            merged[name] = [*kept, *(item for item in ours.get(name, ()) if item not in kept)]
    merged["configs"] = _configs(foreign, slots)
    if info := _other_info(old.get("dataset_info"), {slot.manifest.config_name for slot in slots}):
        merged["dataset_info"] = info
    else:
        merged.pop("dataset_info", None)
    return merged


def _foreign_configs(configs: Any, slots: Sequence[Slot]) -> list[dict[str, Any]]:
    """What the card lists besides the subsets: other configurations, and other splits of theirs."""
    mine: dict[str, set[str]] = {}
    for slot in slots:
        for name in (slot.manifest.config_name, selection_config(slot, slots)):
            mine.setdefault(name, set()).add(slot.manifest.split)
    foreign = []
    for config in configs if isinstance(configs, list) else []:
        if not isinstance(config, dict):
            continue
        if (name := config.get("config_name", "default")) not in mine:
            foreign.append(config)
        elif rest := [entry for entry in _entries(config) if entry["split"] not in mine[name]]:
            foreign.append({**config, "data_files": rest})
    return foreign


def _entries(config: dict[str, Any]) -> list[dict[str, Any]]:
    files = config.get("data_files")
    found = files if isinstance(files, list) else [files]
    return [entry for entry in found if isinstance(entry, dict) and "split" in entry and "path" in entry]


def _configs(foreign: list[dict[str, Any]], slots: Sequence[Slot]) -> list[dict[str, Any]]:
    """Foreign configurations with ours: the default stays theirs where there is one."""
    ours = {config["config_name"]: config for config in card_configs(slots)}
    if not foreign:
        return list(ours.values())
    merged = []
    for config in foreign:
        same = ours.pop(config.get("config_name", "default"), None)
        merged.append(config if same is None else {**config, "data_files": [*same["data_files"], *_entries(config)]})
    return [*merged, *({k: v for k, v in config.items() if k != "default"} for config in ours.values())]


def _other_info(info: Any, names: set[str]) -> Any:
    """`dataset_info` without the configurations that hold a subset: its sizes would no longer be true."""
    if isinstance(info, dict):
        return None if info.get("config_name", "default") in names else info
    if isinstance(info, list):
        return [one for one in info if not isinstance(one, dict) or one.get("config_name", "default") not in names]
    return None
