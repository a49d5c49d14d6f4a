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
BESIDE_CORE = {"hf_gip.distributed", "hf_gip.selection"}  # which import no more than the core does
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


def foreign(path: Path, allowed: str) -> set[str]:
    """Modules that the file imports and the core may not, those under `allowed` left out."""
    return {
        name
        for name in imports(path)
        if name.split(".")[0] not in CORE_MAY_IMPORT
        and not name.startswith(allowed)
        and name not in BESIDE_CORE
        and (path.name, name) not in ALLOWED_BESIDES
    }


def test_the_core_imports_torch_and_itself_only() -> None:
    for path in (ROOT / "hf_gip" / "core").rglob("*.py"):
        assert not foreign(path, "hf_gip.core"), path


def test_selections_and_collectives_import_torch_only() -> None:
    for name in BESIDE_CORE:
        path = ROOT / (name.replace(".", "/") + ".py")
        assert not foreign(path, name), path


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
