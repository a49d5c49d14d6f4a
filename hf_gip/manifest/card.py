"""The card of a subset: what `load_dataset` and the viewer read first."""

from typing import Any

from hf_gip.manifest.schema import SELECTION_PATH, Manifest


def card_text(manifest: Manifest) -> str:
    """`README.md`: the configurations of rows and selection, and one line on where they came from."""
    import yaml

    metadata = {"configs": card_configs(manifest), "tags": ["data-selection", manifest.method]}
    return (
        f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n\n"
        f"# {manifest.k:,} rows chosen by {manifest.method} from {manifest.source.num_rows:,}\n\n"
        "Check this folder with `hf-gip verify .`; `gip/manifest.json` says what was chosen, how and from where.\n"
    )


def card_configs(manifest: Manifest) -> list[dict[str, Any]]:
    """The `configs` of the card's YAML: the rows where they are included, and the selection."""
    rows = _config(manifest.config_name, manifest.split, f"data/{manifest.split}-*")
    selection = _config("selection", manifest.split, SELECTION_PATH)
    return [rows | {"default": True}, selection] if manifest.include_rows else [selection | {"default": True}]


def _config(name: str, split: str, path: str) -> dict[str, Any]:
    return {"config_name": name, "data_files": [{"split": split, "path": path}]}
