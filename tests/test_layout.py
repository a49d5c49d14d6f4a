"""The layout holds: what may import what, what importing does, and what ships.

Every row of the table of layers in CONTRIBUTING.md is read from there. Imports count wherever they stand: at the top,
inside functions, and under `TYPE_CHECKING`.
"""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import hf_gip

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"hf_gip": ROOT / "hf_gip", "hf_gip.callbacks": ROOT / "callbacks"}
MODULES = {
    ".".join([package, *path.relative_to(folder).with_suffix("").parts]).removesuffix(".__init__"): path
    for package, folder in FOLDERS.items()
    for path in folder.rglob("*.py")
}
ROW = re.compile(r"^\| `(?:hf_gip/)?(?P<part>\w+)(?:/|\.py)` \|.*\| (?P<allowed>[^|]*) \|$", re.MULTILINE)
LAYERS = {
    row["part"]: set(re.findall(r"\w+", row["allowed"]))
    for row in ROW.finditer((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
}
TORCH_ONLY = ("core", "distributed", "selection")  # parts whose row names every library, too
IMPORT = """
import signal, sys
handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
written = []
def note(event, arguments):
    if event == "os.mkdir" or event == "open" and set(arguments[1] or "") & set("wax+"):
        written.append(arguments[0])
sys.addaudithook(note)
import hf_gip, datasets
print([number for number, handler in handlers.items() if signal.getsignal(number) is not handler])
print([path for path in written if path != '/dev/null'])
print([name for name in ("torch", "transformers", "trl", "peft", "accelerate", "typer") if name in sys.modules])
print(datasets.Dataset.gip_select is hf_gip.gip_select)
"""


def imports(module: str) -> set[str]:
    """Every module that `module` imports, by its full name: of this package the modules, of others the libraries."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            members = {f"{source}.{alias.name}" for alias in node.names}
            names |= {member if member in MODULES else source for member in members}
    return {name if name.startswith("hf_gip") else name.split(".")[0] for name in names}


def part(module: str) -> str:
    """The row of the table that a module belongs to: its folder, or itself where it lies at the top."""
    return module.split(".")[1] if "." in module else "__init__"


def test_every_part_of_the_package_has_its_row() -> None:
    assert {part(module) for module in MODULES} - {"__init__", "__main__"} == set(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_a_part_imports_only_what_its_row_allows(name: str) -> None:
    wrong = {
        f"{module} imports {imported}"
        for module in MODULES
        if part(module) == name
        for imported in imports(module)
        if imported.startswith("hf_gip") and part(imported) not in LAYERS[name] | {name}
    }
    assert not wrong


def test_the_rows_hold_the_direction() -> None:
    """What a row allows may not come to import it: the table alone has no circle."""
    list(TopologicalSorter(LAYERS).static_order())


@pytest.mark.parametrize("name", TORCH_ONLY)
def test_the_core_needs_no_library_but_torch(name: str) -> None:
    libraries = {imported for module in MODULES if part(module) == name for imported in imports(module)}
    assert {each for each in libraries if not each.startswith("hf_gip")} - sys.stdlib_module_names <= LAYERS[name]


def test_no_two_modules_import_each_other() -> None:
    graph = {module: {each for each in imports(module) if each in MODULES} for module in MODULES}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" ← ".join(error.args[1]))


def test_importing_the_package_only_registers_the_method() -> None:
    """No signal handler (the command line alone sets one, see `hf_gip/interrupt.py`), no file, no heavy library."""
    handlers, written, heavy, registered = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert (handlers, written, heavy, registered) == ("[]", "[]", "[]", "True")


def test_the_wheel_ships_every_folder_of_the_package() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    tree = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "hf_gip").rglob("__init__.py")}
    assert set(packages) == tree | {"hf_gip.callbacks"}


def test_every_public_name_resolves_and_is_documented() -> None:
    for name in hf_gip.__all__:
        assert getattr(hf_gip, name).__doc__, name
