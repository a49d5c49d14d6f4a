"""`hf-gip load`: a published subset into a local folder, checked on the way in."""

from pathlib import Path
from typing import Annotated

import typer
from datasets import Dataset, DatasetDict


def load_command(
    repo: Annotated[str, typer.Argument(help="A dataset repository, or a folder.")],
    out: Annotated[Path, typer.Option("--out", help="A new or empty folder for rows, selection and manifest.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the repository.")] = None,
    source: Annotated[
        str | None, typer.Option(help="The pool of a subset without rows: a file, folder or Hub id.")
    ] = None,
    config_name: Annotated[str | None, typer.Option(help="Which subset, where there are several.")] = None,
    split: Annotated[str | None, typer.Option(help="Which split of it.")] = None,
) -> None:
    """Load a published subset, check it, and save it to a folder; a subset without rows is rebuilt from its source."""
    from rich.text import Text

    from hf_gip.cli.output import console
    from hf_gip.hub.load import load_subset
    from hf_gip.manifest.layout import check_empty
    from hf_gip.manifest.save import save_subset

    check_empty(out)
    subset = _one(load_subset(repo, revision=revision, source=source, config_name=config_name, split=split))
    save_subset(subset, out, config_name=config_name or "default", split=str(subset.split or split or "train"))
    console().print(Text(f"Loaded {len(subset):,} verified rows of {repo!r} into {str(out)!r}."))


def _one(subset: Dataset | DatasetDict) -> Dataset:
    """The subset, where it is one.

    Raises:
        ValueError: If there are several splits.
    """
    if isinstance(subset, Dataset):
        return subset
    raise ValueError(f"`--split` must name one of {list(subset)}, got none.")
