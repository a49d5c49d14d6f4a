"""`hf-gip reproduce`: select again from the source, and say what is the same."""

from typing import Annotated

import typer


def reproduce_command(
    context: typer.Context,
    place: Annotated[str, typer.Argument(help="A dataset repository, or a folder written by `hf-gip select`.")],
    source: Annotated[
        str | None, typer.Option(help="The pool: a file, folder or Hub id; the recorded repository unless told.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="The target again, where it was a dataset or file.")] = None,
    target_split: Annotated[str, typer.Option(help="Split of the target.")] = "train",
    target_config: Annotated[str | None, typer.Option(help="Configuration of the target.")] = None,
    features: Annotated[str | None, typer.Option(help="The vectors again, where they were a .npy file.")] = None,
    encoder: Annotated[str | None, typer.Option(help="The encoder again, where it was a local folder.")] = None,
    model: Annotated[str | None, typer.Option(help="The model again, where it was a local folder.")] = None,
    checkpoints: Annotated[
        list[str] | None, typer.Option("--checkpoint", help="GTP's checkpoint folders again; repeat it.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the repository.")] = None,
    config_name: Annotated[str | None, typer.Option(help="Which subset, where there are several.")] = None,
    split: Annotated[str | None, typer.Option(help="Which split of it.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …; a GPU where there is one.")] = None,
) -> None:
    """Select again with the recorded parameters; exit code 0 where the objective was reached again."""
    from rich.text import Text

    from hf_gip.cli.inputs import open_target, vectors
    from hf_gip.cli.output import console
    from hf_gip.hub.load import reproduce

    again = reproduce(
        place,
        source=source,
        target=None if target is None else open_target(target, split=target_split, config=target_config),
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
