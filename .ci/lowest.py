"""Print the oldest versions that pyproject.toml allows, one `name==version` a line, as constraints for pip."""

import re
import tomllib
from pathlib import Path

BOUND = re.compile(r"^(?P<name>[\w-]+)>=(?P<version>[\d.]+)")


def main() -> None:
    """Read the dependencies and the extras the tests need."""
    project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["train"], *extras["plot"], *extras["test"]]
    print("\n".join(f"{found['name']}=={found['version']}" for found in map(BOUND.match, wanted) if found))


if __name__ == "__main__":
    main()
