"""`hf-gip reproduce`: select again from the source, and say what is the same."""

from typing import Annotated

import typer

from hf_gip.cli.again import (
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

    from hf_gip.cli.inputs import open_excluded, open_target, vectors
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
