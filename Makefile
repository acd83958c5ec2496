# Everything works on a machine that has Python 3.11 to 3.13 only: the virtual environment is made on demand,
# and brought up to date when pyproject.toml changes.

VENV ?= .venv
PYTHON ?=
# Test processes at once. More of them than this make the tests that measure time unfair to each other.
WORKERS ?= 2

# The version of the emulator that tests of Azure run against.
AZURITE ?= 3.35.0

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest
TESTS := tests

.DELETE_ON_ERROR:
.PHONY: help demo azurite test lint style types api layers format coverage bench soak docs wheel clean

help:  ## what can be made
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST)

demo: $(VENV)/.stamp-run  ## download 256 MiB, kill -9 the downloader in the middle, resume, verify
	$(BIN)/meowcat demo

test: $(VENV)/.stamp-test  ## the whole test suite but the soak
	$(PYTEST) $(TESTS) -m "not soak" -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: style types api layers  ## style, types and layers; with -j at once

style: $(VENV)/.stamp-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.stamp-lint
	$(BIN)/mypy

api: $(VENV)/.stamp-lint
	$(BIN)/pyright --pythonpath $(BIN)/python

layers: $(VENV)/.stamp-lint
	$(BIN)/lint-imports

format: $(VENV)/.stamp-lint  ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

coverage: $(VENV)/.stamp-test  ## every branch of the pure core is tested
	$(PYTEST) tests/unit tests/specs -m "not soak" -n $(WORKERS) --dist loadfile -q \
		--cov=meowcat/core --cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=100

bench: $(VENV)/.stamp-bench  ## measure, next to others too; hours, on a quiet machine
	$(BIN)/python -m tests.bench --out docs/performance
	@for each in tests/bench/bench_*.py; do echo "== $$each"; $(BIN)/python $$each || exit 1; done

soak: $(VENV)/.stamp-test  ## 200 random kill -9 cycles, whatever else is slow on purpose, and examples drawn anew
	$(PYTEST) $(TESTS) -m soak -s --timeout 0
	$(PYTEST) $(TESTS) -m hypothesis --hypothesis-profile "at random" -n $(WORKERS) --dist loadfile

azurite: $(VENV)/npm/.stamp-azurite  ## the emulator that tests of Azure run against; needs node and npm

wheel: $(VENV)/.stamp-lint  ## build dist/*.whl
	rm -rf dist
	$(BIN)/python -m build --wheel

clean:  ## remove what was made, the virtual environment too
	rm -rf $(VENV) dist build htmlcov .coverage .coverage.* .pytest_cache .hypothesis .mypy_cache .ruff_cache \
		.import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# The first Python that really runs (a pyenv shim may not), fits, and can make virtual environments.
$(VENV)/.stamp-pip:
	@for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
		if "$$python" -c "import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))" 2>/dev/null; \
		then echo "making $(VENV) with $$python"; exec "$$python" -m venv $(VENV); fi; \
	done; \
	echo "meowcat needs Python 3.11, 3.12 or 3.13 that can make virtual environments; none was found among" >&2; \
	echo "$(or $(PYTHON),python3, python3.13, python3.12, python3.11). Install one (on Debian also python3-venv)," >&2; \
	echo "or name it: make $(or $(MAKECMDGOALS),test) PYTHON=/path/to/python3.12" >&2; \
	exit 1
	# Dependency groups need pip 25.1, which is younger than most Pythons.
	$(PIP) install -q --upgrade "pip>=25.1"
	@touch $@

$(VENV)/.stamp-run: pyproject.toml $(VENV)/.stamp-pip
	$(PIP) install -q -e .
	@touch $@

$(VENV)/.stamp-test: pyproject.toml $(VENV)/.stamp-run
	$(PIP) install -q -e . --group test
	@touch $@

$(VENV)/.stamp-bench: pyproject.toml $(VENV)/.stamp-test
	$(PIP) install -q -e . --group bench
	@touch $@

# Without a lock file: it would name the registry that it was made with.
$(VENV)/npm/.stamp-azurite: $(VENV)/.stamp-pip
	npm install --no-save --no-audit --no-fund --loglevel=error --prefix $(VENV)/npm azurite@$(AZURITE)
	@touch $@

$(VENV)/.stamp-lint: pyproject.toml $(VENV)/.stamp-test
	$(PIP) install -q -e . --group test --group lint --group build
	@touch $@
