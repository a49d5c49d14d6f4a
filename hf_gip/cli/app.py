"""The program `hf-gip`: its commands, and every mistake as one sentence."""

import os
import re
import signal
import sys
from contextlib import AbstractContextManager, nullcontext

import typer

from hf_gip.cli.embed import embed_command
from hf_gip.cli.inspect import compare_command, explain_command, report_command
from hf_gip.cli.select import gtp_command, select_command, spice_command
from hf_gip.cli.subsets import load_command, push_command, reproduce_command, verify_command

PROGRAM = typer.Typer(
    name="hf-gip",
    help="Choose the training rows that matter, save them with proof, and check what others chose.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
PROGRAM.command("embed")(embed_command)
PROGRAM.command("select")(select_command)
PROGRAM.command("spice")(spice_command)
PROGRAM.command("gtp")(gtp_command)
PROGRAM.command("push")(push_command)
PROGRAM.command("load")(load_command)
PROGRAM.command("verify")(verify_command)
PROGRAM.command("reproduce")(reproduce_command)
PROGRAM.command("compare")(compare_command)
PROGRAM.command("explain")(explain_command)
PROGRAM.command("report")(report_command)


class Stopped(BaseException):
    """The user pressed Ctrl-C."""


def main() -> None:
    """Run a command.

    Raises:
        SystemExit: With code 2, after one sentence on stderr, where the input is wrong; with code 130 on Ctrl-C.
    """
    from datasets.exceptions import DatasetsError
    from datasets.utils import logging

    logging.set_verbosity(logging.CRITICAL)  # what readers log on the way is in the sentence
    signal.signal(signal.SIGINT, _stop)
    try:
        with _ranks():
            PROGRAM()
    except Stopped:
        typer.echo("hf-gip: stopped; finished parts are in the cache, and the same command goes on there.", err=True)
        raise SystemExit(130) from None
    except (ValueError, TypeError, OSError, ImportError, DatasetsError) as error:
        cause = error.__cause__ if isinstance(error, DatasetsError) and error.__cause__ else error  # it has the reason
        sentence = " ".join(str(cause).split()) or type(cause).__name__
        typer.echo(f"hf-gip: {arguments_as_flags(sentence, sys.argv[1:2])}", err=True)
        raise SystemExit(2) from None


def _ranks() -> AbstractContextManager[None]:
    """What lets processes that a launcher started select together; `embed` takes its share without the others."""
    if sys.argv[1:2] != ["select"] or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return nullcontext()
    from hf_gip.distributed import launched_group

    return launched_group()


def arguments_as_flags(sentence: str, command: list[str]) -> str:
    """A sentence about a Python function's arguments, with the flags of the `command` that have their names.

    `id_column` in it becomes `--id-column`, and `device='cpu'` becomes `--device cpu`. A name that is no option of
    this command stays as it is.
    """
    parameters = getattr(PROGRAM_COMMANDS.get(*command or [""]), "params", [])
    options = {each.name: each for each in parameters if each.param_type_name == "option"}

    def flag(match: re.Match[str]) -> str:
        option, value = options.get(match["name"]), match["value"]
        if option is None:
            return match[0]
        on = max(option.opts, key=len)
        if option.is_flag:
            off = option.secondary_opts[0] if option.secondary_opts else None
            return f"no `{on}`" if value == "False" and off is None else f"`{off if value == 'False' else on}`"
        if value is None or value in ("True", "False"):
            return f"`{on}`" if value is None else match[0]
        return f"`{on} {value if '*' in value else value[1:-1]}`"  # a shell would look for files of such a name

    return re.sub(r"`(?P<name>\w+)(=(?P<value>True|False|\[…\]|\"[^\"`]+\"|'[^'`]+'))?`", flag, sentence)


PROGRAM_COMMANDS = getattr(typer.main.get_command(PROGRAM), "commands", {})


def _stop(*_: object) -> None:
    raise Stopped
