"""The pages that users read, and the code blocks on them."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block, and the line of its page where it begins."""

    language: str
    code: str
    line: int


def blocks(page: Path) -> list[Block]:
    """The Python and shell blocks of a page, in order. Others would be overlooked, so they are refused."""
    text = page.read_text()
    found = [
        Block(each["language"], each["code"], text[: each.start()].count("\n") + 1) for each in FENCE.finditer(text)
    ]
    assert {block.language for block in found} <= {"python", "bash"}, page
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(found), f"{page.name} has a fence of another form"
    return found
