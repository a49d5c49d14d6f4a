"""The dataset card: one section per subset, and the metadata that leads `load_dataset` to its files.

A card may hold more than subsets: the owner's words, other configurations and metadata stay as they are.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from hf_gip.manifest.licenses import license_names, one_or_list, strictest
from hf_gip.manifest.locations import SubsetLocation
from hf_gip.manifest.schema import MANIFEST_PATH, SELECTION_PATH, Manifest

PICTURE_PATH = "gip/gains.png"
SELECTION_CONFIG = "selection"
METHODS = {
    "gip": "Greedy information projection takes, pick by pick, the row that adds most to what the chosen rows capture "
    "of {target} ([paper](https://huggingface.co/papers/2603.13790)).",
    "spice": "SPICE takes the rows whose gradients on a proxy model carry the most Fisher information and conflict "
    "least ([paper](https://huggingface.co/papers/2601.23155)).",
    "gtp": "Gradient trajectory pursuit takes rows, and weights for them, whose gradients together follow those of "
    "the target at every checkpoint ([paper](https://huggingface.co/papers/2410.16710)).",
}
TARGETS = {"pool": "the pool itself", "texts": "the target texts"}
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
OWNER_DECIDES = (
    "language",
    "task_categories",
    "size_categories",
    "pretty_name",
)  # metadata that stays where it is set


@dataclass(frozen=True, slots=True)
class CardDetails:
    """What a card says besides the manifest.

    Attributes:
        repo_id: What `load_subset` is called with: a repository, or `.` for the folder the card lies in.
        license: The source's license, where it is known.
        comparison: A Markdown table against random rows, or nothing.
        picture: Whether the gains are drawn beside the manifest.
    """

    repo_id: str = "."
    license: str | None = None
    comparison: str | None = None
    picture: bool = False


def subset_card(manifest: Manifest) -> str:
    """`README.md` of a subset by itself: configurations of rows and selection, and its section."""
    location = SubsetLocation("", manifest)
    return _compose(_metadata([location]), f"{_section(location, CardDetails())}\n")


def merge_card(
    card: str | None,
    locations: Sequence[SubsetLocation],
    published: Sequence[tuple[SubsetLocation, CardDetails]],
    source_metadata: Mapping[str, Any],
) -> str:
    """The card with the sections of the `published` subsets in it.

    A section whose subset is still the same is left as it is, an older one is replaced, and a new one is added at the
    end. Everything else of the text stays. Of the card's license and the rows' the strictest counts.

    Args:
        card: The card as it is, or None.
        locations: All subsets, the published ones among them.
        published: The subsets that are published now.
        source_metadata: Metadata of the source: license, language, tasks.

    Returns:
        The card.

    Raises:
        ValueError: If the card's metadata is no YAML.
    """
    metadata, body = split_card(card or "")
    for location, details in published:
        body = _put_section(body, location, details)
    return _compose(_merge_metadata(metadata, {**source_metadata, **_metadata(locations)}, locations), body)


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
    except (yaml.YAMLError, RecursionError, ValueError):  # ValueError: a date that is none
        metadata = None
    if not isinstance(metadata, dict):
        raise ValueError("the card README.md must begin with YAML metadata, got something else: mend it first.")
    return metadata, parts[2]


def section_digest(card: str | None, location: SubsetLocation) -> str | None:
    """The manifest digest that the card's section of a subset was written for."""
    match = re.search(re.escape(_begin(location)) + r" ([0-9a-f]{64}) -->", card or "")
    return match[1] if match else None


def card_configs(locations: Sequence[SubsetLocation]) -> list[dict[str, Any]]:
    """The `configs` of the card's YAML: rows where they are included, and selections; the first is the default."""
    files: dict[str, list[dict[str, str]]] = {}
    for location in locations:
        manifest = location.manifest
        if manifest.include_rows:
            entry = {"split": manifest.split, "path": f"{location.root}data/{manifest.split}-*"}
            files.setdefault(manifest.config_name, []).append(entry)
    for location in locations:
        entry = {"split": location.manifest.split, "path": f"{location.root}{SELECTION_PATH}"}
        files.setdefault(_selection_config(location, locations), []).append(entry)
    configs: list[dict[str, Any]] = [{"config_name": name, "data_files": entries} for name, entries in files.items()]
    return [config | ({} if number else {"default": True}) for number, config in enumerate(configs)]


def source_names(manifest: Manifest) -> list[str]:
    """The repositories that the rows stem from."""
    source = manifest.source
    names = [source.repo_id, *(origin.repo_id for origin in source.origins)]
    return list(dict.fromkeys(name for name in names if name))


# --- the section of one subset ---------------------------------------------------------------------------------------


def _section(location: SubsetLocation, details: CardDetails) -> str:
    """The part of the card that is about one subset, between two marks."""
    manifest = location.manifest
    source = manifest.source
    source_words = {
        "hub": f"[{source.repo_id}](https://huggingface.co/datasets/{source.repo_id}) at commit `{source.revision}`",
        "files": ", ".join(f"`{file.name}`" for file in source.files[:3]),
        "rows": f"a dataset of {source.num_rows:,} rows {_origin_words(manifest)}",
    }[source.kind]
    names = f', config_name="{manifest.config_name}", split="{manifest.split}"' if location.root else ""
    return (
        Template(Path(__file__).with_suffix(".md").read_text(encoding="utf-8"))
        .substitute(
            begin=f"{_begin(location)} {manifest.digest} -->",
            end=_end(location),
            title=f"{manifest.k:,} rows chosen by {manifest.method} from {source.num_rows:,}",
            k=f"{manifest.k:,}",
            n=f"{source.num_rows:,}",
            method=manifest.method,
            source=source_words,
            reason=_method_words(manifest),
            facts=_facts(manifest),
            comparison=f"## Against random rows\n\n{details.comparison}\n\n" if details.comparison else "",
            picture=f"![What each pick added]({location.root}{PICTURE_PATH})\n\n" if details.picture else "",
            repo_id=details.repo_id,
            names=names,
            manifest=f"{location.root}{MANIFEST_PATH}",
            picks=f"{location.root}{SELECTION_PATH}",
            license=_license_words(manifest, details.license),
        )
        .strip()
    )


def _begin(location: SubsetLocation) -> str:
    return f"<!-- hf-gip {location.name}"


def _end(location: SubsetLocation) -> str:
    return f"<!-- /hf-gip {location.name} -->"


def _origin_words(manifest: Manifest) -> str:
    named = [origin for origin in manifest.source.origins if origin.repo_id is not None]
    links = [f"[{one.repo_id}](https://huggingface.co/datasets/{one.repo_id}) at `{one.revision}`" for one in named]
    if links and len(named) < len(manifest.source.origins):
        links.append("other rows")
    return f"derived from {' and '.join(links)}" if links else "made in memory"


def _method_words(manifest: Manifest) -> str:
    queries = manifest.recipe.get("queries")
    kind = queries.get("kind", "") if isinstance(queries, dict) else ""
    words = METHODS.get(manifest.method, f"The rows were chosen by `{manifest.method}`.")
    return words.format(target=TARGETS.get(kind, "the target"))


def _facts(manifest: Manifest) -> str:
    facts = {"rows": f"{manifest.k:,} of {manifest.source.num_rows:,}", "objective": f"{manifest.objective:.6g}"}
    if manifest.captured is not None:
        facts["captured"] = f"{manifest.captured:.2%} of what there is to capture"
    for name, value in manifest.parameters.items():
        if name != "k" and not isinstance(value, dict | list):
            facts[f"`{name}`"] = f"`{value}`"
    return "\n".join(f"| {name} | {value} |" for name, value in facts.items())


def _license_words(manifest: Manifest, license_: str | None) -> str:
    source = (
        f"`{license_}`, the license of the source" if license_ else "that of the source, which this card does not know"
    )
    if manifest.include_rows:
        return f"The rows stay under the license they came with: {source}."
    return f"Positions and hashes only, no rows. The rows themselves are under the license they came with: {source}."


def _put_section(body: str, location: SubsetLocation, details: CardDetails) -> str:
    match = re.search(f"{re.escape(_begin(location))} .*?{re.escape(_end(location))}", body, re.DOTALL)
    if match is None:
        return f"{body.rstrip()}\n\n{_section(location, details)}\n".lstrip()
    if section_digest(match[0], location) == location.manifest.digest:
        return body
    return body[: match.start()] + _section(location, details) + body[match.end() :]


# --- the metadata of all ---------------------------------------------------------------------------------------------


def _compose(metadata: Mapping[str, Any], body: str) -> str:
    import yaml

    return f"---\n{yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)}---\n\n{body.lstrip()}"


def _metadata(locations: Sequence[SubsetLocation]) -> dict[str, Any]:
    """The YAML that subsets bring along: sources, size, tags and configurations."""
    sources = [name for location in locations for name in source_names(location.manifest)]
    rows = sum(location.manifest.k for location in locations)
    size = next((name for limit, name in SIZES if rows < limit), "n>10M")
    tags = ["data-selection", "hf-gip", *(location.manifest.method for location in locations)]
    return {
        **({"source_datasets": list(dict.fromkeys(sources))} if sources else {}),
        "size_categories": [size],
        "tags": list(dict.fromkeys(tags)),
        "configs": card_configs(locations),
    }


def _selection_config(location: SubsetLocation, locations: Sequence[SubsetLocation]) -> str:
    """The configuration that holds the picks of a subset."""
    first, name = locations[0].manifest.config_name, location.manifest.config_name
    return SELECTION_CONFIG if name == first else f"{SELECTION_CONFIG}-{name}"


def _merge_metadata(card: dict[str, Any], ours: dict[str, Any], locations: Sequence[SubsetLocation]) -> dict[str, Any]:
    """The card's metadata with ours; the owner's choices stay."""
    merged = {
        **card,
        **{name: value for name, value in ours.items() if name not in OWNER_DECIDES or not card.get(name)},
    }
    before = license_names(card.get("license"))
    if stricter := strictest([*before, *license_names(ours.get("license"))]):
        merged["license"] = card["license"] if set(stricter) == set(before) else one_or_list(stricter)
    foreign = _foreign_configs(card.get("configs"), locations)
    if not foreign and card.get("configs"):
        merged["size_categories"] = ours["size_categories"]  # nothing but subsets here: the size is theirs
    for name in ("tags", "source_datasets"):
        if value := card.get(name):
            values = value if isinstance(value, list) else [value]
            merged[name] = [*values, *(item for item in ours.get(name, ()) if item not in values)]
    merged["configs"] = _merge_configs(foreign, locations)
    if info := _foreign_info(card.get("dataset_info"), {location.manifest.config_name for location in locations}):
        merged["dataset_info"] = info
    else:
        merged.pop("dataset_info", None)
    return merged


def _foreign_configs(configs: Any, locations: Sequence[SubsetLocation]) -> list[dict[str, Any]]:
    """What the card lists besides the subsets: other configurations, and other splits of theirs."""
    splits: dict[str, set[str]] = {}
    for location in locations:
        for name in (location.manifest.config_name, _selection_config(location, locations)):
            splits.setdefault(name, set()).add(location.manifest.split)
    foreign = []
    for config in configs if isinstance(configs, list) else []:
        if not isinstance(config, dict):
            continue
        if (name := config.get("config_name", "default")) not in splits:
            foreign.append(config)
        elif rest := [entry for entry in _entries(config) if entry["split"] not in splits[name]]:
            foreign.append({**config, "data_files": rest})
    return foreign


def _entries(config: dict[str, Any]) -> list[dict[str, Any]]:
    files = config.get("data_files")
    entries = files if isinstance(files, list) else [files]
    return [entry for entry in entries if isinstance(entry, dict) and "split" in entry and "path" in entry]


def _merge_configs(foreign: list[dict[str, Any]], locations: Sequence[SubsetLocation]) -> list[dict[str, Any]]:
    """Foreign configurations with ours: the default stays theirs where there is one."""
    ours = {config["config_name"]: config for config in card_configs(locations)}
    if not foreign:
        return list(ours.values())
    merged = []
    for config in foreign:
        files = ours.pop(config.get("config_name", "default"), {}).get("data_files", [])
        merged.append({**config, "data_files": [*files, *_entries(config)]} if files else config)
    return [*merged, *({k: v for k, v in config.items() if k != "default"} for config in ours.values())]


def _foreign_info(info: Any, names: set[str]) -> Any:
    """`dataset_info` without the configurations that hold a subset: its sizes would no longer be true."""
    if isinstance(info, dict):
        return None if info.get("config_name", "default") in names else info
    if isinstance(info, list):
        return [one for one in info if not isinstance(one, dict) or one.get("config_name", "default") not in names]
    return None
