"""Every command line of the README, the docs, the scripts' page and the workflow is one that exists."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml
from markdown_blocks import FENCE, PAGES, ROOT, blocks

from hf_gip.cli.app import PROGRAM

ALL = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "hub_scripts/README.md"]
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def lines(page: Path) -> Iterator[list[str]]:
    """The words of each command on a page: of its shell blocks, and of `hf-gip …` and `make …` within sentences."""
    for block in blocks(page):
        if block.language == "bash":
            yield from (words for line in block.code.splitlines() if (words := shlex.split(line, comments=True)))
    inline = re.findall(r"`((?:hf-gip|make|python) [^`…]+)`", FENCE.sub("", page.read_text()))
    yield from (shlex.split(line) for line in inline)


def parse(words: list[str]) -> None:
    """Raise unless the program takes these words; nothing is run."""
    group = typer.main.get_command(PROGRAM)
    command = group.commands[words[0]]  # pyright: ignore[reportAttributeAccessIssue] — a group of commands
    if len(words) > 1:  # not where a sentence names the command alone
        command.make_context(words[0], list(words[1:]))


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_commands_of_a_page_exist(page: Path) -> None:
    for words in lines(page):
        if words[0] == "hf-gip" and words[1:] != ["--help"]:
            parse(words[1:])
        elif words[0] == "make":
            assert words[1] in TARGETS, words
        for word in words:
            if word.startswith(("examples/", "benchmarks/", "hub_scripts/", "docs/")):
                assert (ROOT / word).exists(), words


def test_a_command_that_does_not_exist_is_noticed() -> None:
    with pytest.raises(KeyError):
        parse(["choose", "rows.parquet"])
    with pytest.raises(Exception, match="No such option"):
        parse(["select", "rows.parquet", "--k", "3", "--wish"])


def test_the_workflow_calls_what_there_is() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    called = []
    for job in jobs.values():
        matrix = job.get("strategy", {}).get("matrix", {})
        for line in (step["run"] for step in job["steps"] if "run" in step):
            name = re.sub(r"\$\{\{ matrix\.(\w+) \}\}", r"{\1}", line)
            called += [name.format(**{key: value}) for key, values in matrix.items() for value in values] or [name]
    assert "bash .ci/run" in called
    for line in called:
        program, what = line.split(maxsplit=1)
        assert (what in TARGETS) if program == "make" else (ROOT / what).is_file(), line
    script = (ROOT / ".ci/run").read_text()
    assert set(re.findall(r"^make ([\w-]+)", script, re.MULTILINE)) <= TARGETS
