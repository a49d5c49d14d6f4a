"""The line that holds the layout together: what may import what, and what ships."""

import ast
import tomllib
from pathlib import Path

import hf_gip

ROOT = Path(__file__).resolve().parents[1]
CORE_MAY_IMPORT = {
    "torch",
    "jaxtyping",
    *("collections", "contextlib", "dataclasses", "functools", "itertools", "math", "os", "pathlib", "time", "typing"),
    "warnings",
}
ALLOWED_BESIDES = {("selection.py", "hf_gip.pictures"), ("selection.py", "matplotlib.figure")}  # `Selection.plot`


def imports(path: Path) -> set[str]:
    """Every module that the file imports, dotted, relative imports left out."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
    return names


def test_the_core_imports_torch_and_itself_only() -> None:
    for path in (ROOT / "hf_gip" / "core").rglob("*.py"):
        foreign = {
            name
            for name in imports(path)
            if name.split(".")[0] not in CORE_MAY_IMPORT
            and not name.startswith("hf_gip.core")
            and (path.name, name) not in ALLOWED_BESIDES
        }
        assert not foreign, f"{path.relative_to(ROOT)} imports {foreign}"


def test_no_module_of_the_package_imports_the_callbacks() -> None:
    for path in (ROOT / "hf_gip").rglob("*.py"):
        assert not any(name.startswith("hf_gip.callbacks") for name in imports(path)), path


def test_the_wheel_ships_every_folder_of_the_package() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    tree = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "hf_gip").rglob("__init__.py")}
    assert set(packages) == tree | {"hf_gip.callbacks"}


def test_every_public_name_resolves_and_is_documented() -> None:
    for name in hf_gip.__all__:
        assert getattr(hf_gip, name).__doc__, name
