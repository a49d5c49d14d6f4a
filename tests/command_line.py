"""The command line run in this process."""

import sys

import pytest

from hf_gip.cli.app import main


def hf_gip(*words: object) -> int:
    """Run the command in this process; the exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hf-gip", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            main()
    code = exit_.value.code
    return code if isinstance(code, int) else 0


def refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a refused command says: one line on stderr, nothing on stdout beyond what was read."""
    assert hf_gip(*words) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    line = [line for line in said.err.splitlines() if line.startswith("hf-gip: ")]
    assert len(line) == 1
    return line[0].removeprefix("hf-gip: ")
