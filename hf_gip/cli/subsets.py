"""`hf-gip push`, `load`, `verify` and `reproduce`: saved and published subsets."""

from pathlib import Path
from typing import Annotated

import typer
from datasets import Dataset, DatasetDict

from hf_gip.cli.options import (
    Checkpoints,
    Device,
    Encoder,
    Exclude,
    ExcludeConfig,
    ExcludeSplit,
    Features,
    IncludeRows,
    Model,
    Private,
    SubsetConfig,
    SubsetRevision,
    SubsetSplit,
    Target,
    TargetConfig,
    TargetSplit,
    open_excluded,
    open_target,
    open_vectors,
)


def push_command(
    folder: Annotated[str, typer.Argument(help="A folder written by `hf-gip select` or `save_subset`.")],
    repo: Annotated[str, typer.Argument(help="A dataset repository, such as me/alpaca-gip-1k.")],
    include_rows: IncludeRows = True,
    private: Private = None,
    revision: Annotated[str | None, typer.Option(help="The branch; made where it does not exist.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    config_name: Annotated[
        str | None, typer.Option(help="Its new configuration; of a folder with several, the one to publish.")
    ] = None,
    message: Annotated[str | None, typer.Option(help="The commit's message.")] = None,
) -> None:
    """Publish a saved subset with its proof in one commit; the token is the one of `hf auth login` or HF_TOKEN."""
    from hf_gip.cli.output import show
    from hf_gip.hub.push import push_to_hub

    for name, split, subset in _configurations(folder, config_name):
        commit = push_to_hub(
            subset,
            repo,
            include_rows=include_rows,
            private=private,
            revision=revision,
            create_pr=create_pr,
            config_name=name,
            split=split,
            commit_message=message,
        )
        visibility = "private" if commit.private else "public"
        show(f"Published {commit.commit_url} ({visibility}): check it with `hf-gip verify {repo}`.")


def _configurations(folder: str, config_name: str | None) -> list[tuple[str, str | None, Dataset | DatasetDict]]:
    """What a folder holds, each configuration with the name to publish it under, checked before any is published.

    Of a folder with one configuration `config_name` is its new name, of one with several the one that is meant.

    Raises:
        ValueError: If something is not what its manifest says, or there are several and none of that name.
    """
    from hf_gip.hub.load import load_subset, resolve

    manifests = [location.manifest for location in resolve(folder, revision=None, token=None).locations()]
    names = list(dict.fromkeys([manifests[0].config_name, *sorted(each.config_name for each in manifests)]))
    if len(names) > 1 and config_name not in (None, *names):
        raise ValueError(f"`config_name` must name one of the configurations {names}, got {config_name!r}.")
    configurations = []
    for name in names if len(names) == 1 or config_name is None else [config_name]:
        split = next(each.split for each in manifests if each.config_name == name)
        subset = load_subset(folder, config_name=name)
        new_name = (config_name or name) if len(names) == 1 else name
        configurations.append((new_name, None if isinstance(subset, DatasetDict) else split, subset))
    return configurations


def load_command(
    repo: Annotated[str, typer.Argument(help="A dataset repository, or a folder.")],
    out: Annotated[Path, typer.Option("--out", help="A new or empty folder for rows, selection and manifest.")],
    revision: SubsetRevision = None,
    source: Annotated[
        str | None, typer.Option(help="The pool of a subset without rows: a file, folder or Hub id.")
    ] = None,
    config_name: SubsetConfig = None,
    split: SubsetSplit = None,
) -> None:
    """Load a published subset, check it, and save it to a folder; a subset without rows is rebuilt from its source."""
    from hf_gip.cli.output import show
    from hf_gip.hub.load import load_subset
    from hf_gip.manifest.writer import check_empty, save_subset

    check_empty("--out", out)
    loaded = load_subset(repo, revision=revision, source=source, config_name=config_name, split=split)
    subset = _single_split(loaded)
    save_subset(subset, out, config_name=config_name or "default", split=str(subset.split or split or "train"))
    show(f"Loaded {len(subset):,} verified rows of {repo!r} into {str(out)!r}.")


def _single_split(subset: Dataset | DatasetDict) -> Dataset:
    """The subset, where it is one.

    Raises:
        ValueError: If there are several splits.
    """
    if isinstance(subset, DatasetDict):
        raise ValueError(f"`split` must name one of {list(subset)}, got none.")
    return subset


def verify_command(
    context: typer.Context,
    folder: Annotated[str, typer.Argument(help="A dataset repository, or a folder written by `hf-gip select`.")],
    source: Annotated[
        str | None, typer.Option(help="The pool, to compare its rows: a file, folder or Hub id.")
    ] = None,
    revision: SubsetRevision = None,
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
    repo: Annotated[str, typer.Argument(help="A dataset repository, or a folder written by `hf-gip select`.")],
    source: Annotated[
        str | None, typer.Option(help="The pool: a file, folder or Hub id; by default the recorded repository.")
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
    revision: SubsetRevision = None,
    config_name: SubsetConfig = None,
    split: SubsetSplit = None,
    device: Device = None,
) -> None:
    """Select again with the recorded parameters; exit code 0 where the objective was reached again."""
    from hf_gip.cli.output import show
    from hf_gip.hub.load import reproduce

    reproduction = reproduce(
        repo,
        source=source,
        target=open_target(target, split=target_split, config=target_config),
        exclude=open_excluded(exclude, split=exclude_split, config=exclude_config),
        features=None if features is None else open_vectors(features),
        encoder=encoder,
        model=model,
        checkpoints=checkpoints or None,
        device=device,
        revision=revision,
        config_name=config_name,
        split=split,
    )
    show(f"{repo}: {reproduction}")
    context.exit(0 if reproduction.ok else 1)
