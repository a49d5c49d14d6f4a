"""Ctrl-C while the command line is still importing: one sentence, no traceback. Nothing slow may be imported here."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Never


@contextmanager
def exit_on_interrupt() -> Iterator[None]:
    """Within, Ctrl-C ends the command line with a sentence.

    Raises:
        KeyboardInterrupt: In any other program.
    """
    try:
        yield
    except KeyboardInterrupt:
        if not is_command_line():
            raise
        _exit()


def install_exit_on_interrupt() -> None:
    """The same from here on, until the command line's `main` takes over: no import may swallow the interrupt."""
    if is_command_line():
        signal.signal(signal.SIGINT, _exit)


def is_command_line() -> bool:
    """Whether this process is `hf-gip` or `python -m hf_gip`."""
    program = (sys.argv or [""])[0]
    return Path(program).stem == "hf-gip" or (program == "-m" and "hf_gip" in sys.orig_argv)


def _exit(*_: object) -> Never:
    os.write(2, b"hf-gip: stopped before it began.\n")
    os._exit(130)
