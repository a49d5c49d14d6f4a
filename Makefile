# Five words: demo, test, check, bench, build. Each does its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-heavy check types bench build clean

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: $(READY)  ## the main job on embedded defaults: select towards a task, save, verify, plot
	$(BIN)/python examples/demo.py

test: $(READY)  ## everything that runs in minutes
	$(BIN)/python -m pytest -m "not heavy" -q

test-heavy: $(READY)  ## the rest: long soaks, kills, full-size pools
	$(BIN)/python -m pytest -m heavy -q

types: $(READY)  ## type checkers do not follow editable hooks: install a copy for them to read
	rm -rf build/typing && $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target build/typing . 
	rm -rf build/lib build/bdist.*

check: $(READY) types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

bench: $(READY)  ## speed and memory, side by side with the peers
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[bench]"
	$(BIN)/python benchmarks/speed.py

build: $(READY)
	$(BIN)/python -m pip install --quiet build && $(BIN)/python -m build

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
