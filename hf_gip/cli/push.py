"""`hf-gip push`: a saved folder onto the Hub, in one commit."""

from typing import Annotated

import typer


def push_command(
    folder: Annotated[str, typer.Argument(help="A folder written by `hf-gip select` or `save_subset`.")],
    repo: Annotated[str, typer.Argument(help="A dataset repository, such as me/alpaca-gip-1k.")],
    rows: Annotated[
        bool, typer.Option("--rows/--no-rows", help="Publish the rows, or positions and hashes only.")
    ] = True,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Of a new repository; follows the source unless told.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="The branch; made where it does not exist.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    config_name: Annotated[
        str | None, typer.Option(help="Configuration of the rows, instead of the folder's.")
    ] = None,
    message: Annotated[str | None, typer.Option(help="The commit's message.")] = None,
) -> None:
    """Publish a saved subset with its proof in one commit; the token is the one of `hf auth login` or HF_TOKEN."""
    from datasets import Dataset
    from rich.text import Text

    from hf_gip.cli.output import console
    from hf_gip.hub.fetch import locate
    from hf_gip.hub.load import load_subset
    from hf_gip.hub.push import push_to_hub

    [slot] = locate(folder, revision=None, token=None).slots()[:1]
    subset = load_subset(folder)
    one = isinstance(subset, Dataset)
    done = push_to_hub(
        subset,
        repo,
        include_rows=rows,
        private=private,
        revision=revision,
        create_pr=create_pr,
        config_name=config_name or slot.manifest.config_name,
        split=slot.manifest.split if one else None,
        commit_message=message,
    )
    console().print(Text(f"Published {done.commit_url}: check it with `hf-gip verify {repo}`."))
