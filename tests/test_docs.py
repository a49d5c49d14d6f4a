"""Every block of the README and the docs runs, in order, page by page, in a folder of its own.

Python is executed, `hf-gip …` goes through the program's own entry, and names lead to the small things of `stand_ins`.
Programs that another test runs whole are not run again here; `ELSEWHERE` says which test that is.
"""

import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command_line import hf_gip as command
from datasets import config
from doc_fixtures import fill, made_before, to_rate, to_share, to_train
from hub_server import ME, Hub
from huggingface_hub import constants
from judges import Judge
from markdown_blocks import PAGES, ROOT, Block, blocks

from hf_gip.dataset.llm_scoring import ChatEndpoint

pytestmark = pytest.mark.hub
ELSEWHERE = {
    "pip install hf-gip": ".ci/wheel.py",
    "make demo": "tests/test_examples.py",
    "make test": "Makefile",
    "torchrun --nproc-per-node 8 -m hf_gip select": "tests/dataset/test_gip_ranks.py",
    "torchrun --nproc-per-node 8 examples/select_many_gpus.py": "tests/test_examples.py",
    "python benchmarks/quality.py": "tests/test_evidence.py",
}
NOT_OURS = ("hf auth login",)  # asks for a token at a terminal; the tests have theirs in HF_TOKEN
NEEDED = {
    "SFTTrainer(": to_train,
    "= hf_gip.LocalModel(": to_rate,
    "= hf_gip.ChatEndpoint(": partial(to_rate, 20),
    "dist.init_process_group(": to_share,
}
REPOSITORY = "https://github.com/hf-gip/hf-gip/blob/main/"
LINKED = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/results/quality_details.md"]
FEWER = {r"\b5_?000\b": "500", r"\b1_?000\b": "100"}  # of 600 rows
HERE = {"nccl": "gloo", r"\.cuda\(local_rank\)": ""}  # no GPU


@pytest.fixture
def folder(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's working folder, and a Hub on which the reader is called `me`."""
    for module in ("hf_gip.dataset.inputs", "hf_gip.features.sentence_transformer"):
        monkeypatch.setattr(f"{module}.DEFAULT_ENCODER", "lexical")  # the real one takes minutes
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN", ME)
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0}.items():
        monkeypatch.setenv(name, str(value))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    fill(tmp_path / "here", hub)
    return tmp_path / "here"


def replaced(code: str, others: dict[str, str]) -> str:
    """Code with some patterns replaced."""
    for pattern, other in others.items():
        code = re.sub(pattern, other, code)
    return code


def run_python(block: Block, names: dict[str, Any], where: str) -> None:
    """Execute a block among the names of those before it."""
    code = block.code
    for needle, given in NEEDED.items():
        names |= given() if needle in code else {}
    exec(compile(replaced(code, FEWER | HERE), where, "exec"), names)


def run_bash(block: Block, where: str) -> None:
    """Run each line of a block that begins with `hf-gip`."""
    for line in block.code.splitlines():
        words = shlex.split(replaced(line, FEWER), comments=True)
        if words[:1] == ["hf-gip"]:
            made_before(words)
            assert command(*words[1:]) == 0, f"{where}: {line}"
        elif words:
            assert " ".join(words).startswith((*ELSEWHERE, *NOT_OURS)), f"{where}: {line}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_the_blocks_of_a_page_run_one_after_another(
    page: Path,
    folder: Path,
    judge: tuple[Judge, ChatEndpoint],
) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        where = f"{page.name}, line {block.line}"
        if block.language == "bash":
            run_bash(block, where)
        else:
            code = block.code.replace("http://localhost:8000/v1", judge[1].url)
            run_python(block._replace(code=code), names, where)


@pytest.mark.parametrize("known", ELSEWHERE)
def test_what_is_not_run_here_is_run_elsewhere(known: str) -> None:
    assert (ROOT / ELSEWHERE[known]).is_file()


def slug(heading: str) -> str:
    """The anchor that MkDocs and GitHub give a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_links_lead_to_a_file_and_a_heading_of_it(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.removeprefix(REPOSITORY).partition("#")
        if path.startswith("http"):
            continue
        file = ROOT / path if target.startswith(REPOSITORY) else page.parent / path if path else page
        assert file.is_file(), f"{page.name}: {target}"
        headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in map(slug, headings), f"{page.name}: {target}"


def test_the_site_lists_every_page() -> None:
    listed = re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(page.name for page in PAGES if page.parent != ROOT)
