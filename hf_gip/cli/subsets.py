"""`hf-gip push`, `load`, `verify` and `reproduce`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from datasets import Dataset, DatasetDict

from hf_gip.cli.options import (
    Checkpoints,
    Encoder,
    Exclude,
    ExcludeConfig,
    ExcludeSplit,
    Features,
    Model,
    Target,
    TargetConfig,
    TargetSplit,
)


def push_command(
    folder: Annotated[str, typer.Argument(help="A folder written by `hf-gip select` or `save_subset`.")],
    repo: Annotated[str, typer.Argument(help="A dataset repository, such as me/alpaca-gip-1k.")],
    rows: Annotated[
        bool, typer.Option("--include-rows/--no-include-rows", help="Publish the rows, or positions and hashes only.")
    ] = True,
    private: Annotated[
        bool | None,
        typer.Option(
            "--private/--public", help="Of a new repository; private unless all rows are known to be public."
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="The branch; made where it does not exist.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    config_name: Annotated[
        str | None, typer.Option(help="Its new configuration; of a folder with several, the one to publish.")
    ] = None,
    message: Annotated[str | None, typer.Option(help="The commit's message.")] = None,
) -> None:
    """Publish a saved subset with its proof in one commit; the token is the one of `hf auth login` or HF_TOKEN."""
    from rich.text import Text

    from hf_gip.cli.output import console
    from hf_gip.hub.push import push_to_hub

    options: dict[str, Any] = {"private": private, "revision": revision, "create_pr": create_pr}
    for name, split, subset in _subsets(folder, config_name):
        done = push_to_hub(
            subset, repo, include_rows=rows, config_name=name, split=split, commit_message=message, **options
        )
        shown = "private" if done.private else "public"
        console().print(Text(f"Published {done.commit_url} ({shown}): check it with `hf-gip verify {repo}`."))


def _subsets(folder: str, config_name: str | None) -> "list[tuple[str, str | None, Dataset | DatasetDict]]":
    """What a folder holds, each configuration with the name to publish it under, checked before any is published.

    Of a folder with one configuration `config_name` is its new name, of one with several the one that is meant.

    Raises:
        ValueError: If something is not what its manifest says, or there are several and none of that name.
    """
    from datasets import DatasetDict

    from hf_gip.hub.load import load_subset, locate

    slots = locate(folder, revision=None, token=None).slots()
    found = sorted(
        {slot.manifest.config_name for slot in slots}, key=lambda name: name != slots[0].manifest.config_name
    )
    if len(found) > 1 and config_name not in (None, *found):
        raise ValueError(f"`--config-name` must name one of the configurations {found}, got {config_name!r}.")
    subsets = []
    for name in found if len(found) == 1 or config_name is None else [config_name]:
        splits = [slot.manifest.split for slot in slots if slot.manifest.config_name == name]
        subset = load_subset(folder, config_name=name)
        public = (config_name or name) if len(found) == 1 else name
        subsets.append((public, None if isinstance(subset, DatasetDict) else splits[0], subset))
    return subsets


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
    from hf_gip.manifest.writer import check_empty, save_subset

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


def verify_command(
    context: typer.Context,
    folder: Annotated[str, typer.Argument(help="A dataset repository, or a folder written by `hf-gip select`.")],
    source: Annotated[
        str | None, typer.Option(help="The pool, to compare its rows: a file, folder or Hub id.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the repository.")] = None,
) -> None:
    """Check files, card, selection and rows of a saved subset, and its source; exit code 0 only if nothing failed."""
    from hf_gip.cli.output import console, report_table
    from hf_gip.hub.load import verify

    report = verify(folder, source=source, revision=revision)
    console().print(report_table(report))
    console().print(f"{report.subject}: {'verified' if report.ok else 'NOT verified'}", markup=False)
    context.exit(0 if report.ok else 1)


def reproduce_command(
    context: typer.Context,
    place: Annotated[str, typer.Argument(help="A dataset repository, or a folder written by `hf-gip select`.")],
    source: Annotated[
        str | None, typer.Option(help="The pool: a file, folder or Hub id; the recorded repository unless told.")
    ] = None,
    target: Target = None,
    target_split: TargetSplit = None,
    target_config: TargetConfig = None,
    exclude: Exclude = None,
    exclude_split: ExcludeSplit = None,
    exclude_config: ExcludeConfig = None,
    features: Features = None,
    encoder: Encoder = None,
    model: Model = None,
    checkpoints: Checkpoints = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the repository.")] = None,
    config_name: Annotated[str | None, typer.Option(help="Which subset, where there are several.")] = None,
    split: Annotated[str | None, typer.Option(help="Which split of it.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …; a GPU where there is one.")] = None,
) -> None:
    """Select again with the recorded parameters; exit code 0 where the objective was reached again."""
    from rich.text import Text

    from hf_gip.cli.options import open_excluded, open_target, vectors
    from hf_gip.cli.output import console
    from hf_gip.hub.load import reproduce

    again = reproduce(
        place,
        source=source,
        target=open_target(target, split=target_split, config=target_config),
        exclude=open_excluded(exclude, split=exclude_split, config=exclude_config),
        features=None if features is None else vectors(features),
        encoder=encoder,
        model=model,
        checkpoints=checkpoints or None,
        device=device,
        revision=revision,
        config_name=config_name,
        split=split,
    )
    console().print(Text(f"{place}: {again}"))
    context.exit(0 if again.ok else 1)
