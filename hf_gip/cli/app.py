"""The command line."""

import re
import signal
import sys

import typer

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


@PROGRAM.callback()
def _commands() -> None:
    """Keep the commands' names also while there is only one."""


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
        PROGRAM()
    except Stopped:
        typer.echo("hf-gip: stopped; finished parts are in the cache, and the same command goes on there.", err=True)
        raise SystemExit(130) from None
    except (ValueError, TypeError, OSError, ImportError, DatasetsError) as error:
        cause = error.__cause__ if isinstance(error, DatasetsError) and error.__cause__ else error  # it has the reason
        sentence = " ".join(str(cause).split()) or type(cause).__name__
        typer.echo(f"hf-gip: {in_its_words(sentence, sys.argv[1:2])}", err=True)
        raise SystemExit(2) from None


def in_its_words(sentence: str, command: list[str]) -> str:
    """What Python's doors say of their arguments, said of the command's options: `id_column` becomes `--id-column`."""
    found = getattr(typer.main.get_command(PROGRAM), "commands", {}).get(*command or [""])
    options = [each for each in getattr(found, "params", []) if each.param_type_name == "option"]
    flags = {
        each.name: max(each.opts, key=len) for each in options if not each.secondary_opts
    }  # not --include-rows/--no-include-rows
    if "out" in flags:
        flags["folder"] = flags["out"]

    def word(match: re.Match[str]) -> str:
        flag, value = flags.get(match["name"]), (match["value"] or "").strip("\"'")
        if flag is None or value == "None":
            return match[0]
        value = f'"{value}"' if "*" in value else value  # a shell would look for files of that name
        if value == "False":
            return f"no `{flag}`"
        return f"`{flag} {value}`" if value not in ("", "True") else f"`{flag}`"

    sentence = sentence.replace("`update_every=None`", "`--frozen-proxy`").replace("=[…]`", '="…"`')
    return re.sub(r"`(?P<name>\w+)(=(?P<value>\"[^\"`]+\"|'[^'`]+'|True|False))?`", word, sentence)


def _stop(*_: object) -> None:
    raise Stopped
