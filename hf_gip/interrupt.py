"""Ctrl-C while `hf-gip` is still importing: one sentence, no traceback. Nothing slow may be imported here."""

import os
import signal
import sys
from pathlib import Path


def leave_quietly() -> None:
    """Where this process is the command line, end it with a sentence on Ctrl-C, until `hf_gip.cli.main` takes over.

    The package sets this before its first import, of which `datasets` alone takes half a second. Any other program
    keeps its own way with the signal.
    """
    program = (sys.argv or [""])[0]
    if Path(program).stem == "hf-gip" or (program == "-m" and "hf_gip" in sys.orig_argv):
        signal.signal(signal.SIGINT, _leave)


def _leave(*_: object) -> None:
    os.write(2, b"hf-gip: stopped before it began.\n")
    os._exit(130)  # an exception might be taken for a module that cannot be imported
