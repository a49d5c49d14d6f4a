"""`hf-gip verify`: check a saved subset; the exit code says whether it holds."""

from typing import Annotated

import typer


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
