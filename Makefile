# demo, test, check, bench, build, docs, stress. Each does its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-heavy test-wheel test-lowest test-newest check types docs bench stress build clean

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "hf-gip needs Python 3.11 or newer, got \
	%d.%d: name one, make PYTHON=python3.12 ..." % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: $(READY)  ## the main job on embedded defaults: select towards a task, save, verify, plot
	$(BIN)/python examples/demo.py

test: $(READY)  ## everything that runs in minutes
	$(BIN)/python -m pytest -m "not heavy" -q -n auto --maxprocesses 4 --dist worksteal

test-heavy: $(READY)  ## the rest: long stress runs, kills, full-size pools
	$(BIN)/python -m pytest -m heavy -q

LEAN := tests/dataset/test_gip.py tests/features/test_embed.py tests/manifest/test_writer.py tests/manifest/test_verify.py \
	tests/features/test_gradient_store.py tests/callbacks/test_rounds.py \
	tests/cli/test_commands.py tests/cli/test_app.py  # what touches the libraries whose versions change

test-wheel: build  ## wheel and sdist, installed in an environment of their own and used from another folder
	$(PYTHON) -m venv --clear build/wheel
	build/wheel/bin/python -m pip install --quiet -c constraints.txt torch
	build/wheel/bin/python -m pip install --quiet -c constraints.txt dist/*.whl
	cd build/wheel && bin/python -I ../../.ci/wheel.py && bin/hf-gip --help > /dev/null
	build/wheel/bin/python -m pip install --quiet --no-deps --force-reinstall dist/*.tar.gz
	cd build/wheel && bin/python -I ../../.ci/wheel.py

test-lowest:  ## the oldest versions that pyproject.toml allows
	$(PYTHON) -m venv --clear build/lowest && $(PYTHON) .ci/lowest.py > build/lowest.txt
	build/lowest/bin/python -m pip install --quiet -c constraints.txt torch
	build/lowest/bin/python -m pip install --quiet -c build/lowest.txt -e ".[test]"
	build/lowest/bin/python -m pytest -q $(LEAN)

test-newest:  ## the newest versions that pyproject.toml allows; torch as tested
	$(PYTHON) -m venv --clear build/newest
	build/newest/bin/python -m pip install --quiet -c constraints.txt torch
	build/newest/bin/python -m pip install --quiet --upgrade -e ".[test]" "$$(grep ^torch== constraints.txt)"
	build/newest/bin/python -m pytest -q $(LEAN)

docs: $(READY)  ## the site in build/site; any warning is an error
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	$(BIN)/mkdocs build --strict --quiet --site-dir build/site

stress: $(READY)  ## select, save, kill, damage, publish, verify, for an hour; MINUTES=10 for less
	$(BIN)/python benchmarks/stress.py --minutes $(or $(MINUTES),60)

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

build:  ## wheel and sdist in dist/
	rm -rf dist && $(PYTHON) -m venv build/tools && build/tools/bin/python -m pip install --quiet build
	build/tools/bin/python -m build

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
