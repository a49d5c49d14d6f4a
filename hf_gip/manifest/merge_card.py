"""A card that was there before, with the subsets put in: its words and foreign metadata stay."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hf_gip.manifest.card import Extras, card_configs, card_metadata, compose, mark, section, selection_config
from hf_gip.manifest.licenses import license_names, one_or_list, strictest
from hf_gip.manifest.slots import Slot

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
