"""`hf-gip push`: a saved folder onto the Hub, in one commit."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


def push_command(
    folder: Annotated[str, typer.Argument(help="A folder written by `hf-gip select` or `save_subset`.")],
    repo: Annotated[str, typer.Argument(help="A dataset repository, such as me/alpaca-gip-1k.")],
    rows: Annotated[
        bool, typer.Option("--rows/--no-rows", help="Publish the rows, or positions and hashes only.")
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

    from hf_gip.hub.fetch import locate
    from hf_gip.hub.load import load_subset

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
