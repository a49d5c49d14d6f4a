"""Use an installed package from outside the repository: import, select, save, verify, and the type marker."""

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

import datasets

import hf_gip

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Raise at the first thing that is missing."""
    assert files("hf_gip").joinpath("py.typed").is_file()
    assert files("hf_gip.dataset").joinpath("page.html").is_file()
    assert (ROOT / "hf_gip") not in Path(hf_gip.__file__).parents
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder, "cache")
        rows = datasets.Dataset.from_dict({"text": [f"row {i} of words {i % 7}" for i in range(100)]})
        subset = hf_gip.gip_select(rows, 5, encoder="lexical")
        hf_gip.save_subset(subset, Path(folder, "out"))
        assert hf_gip.verify(Path(folder, "out"), source=rows)
    print(f"hf-gip {hf_gip.__version__} works from {sys.prefix}")


if __name__ == "__main__":
    main()
