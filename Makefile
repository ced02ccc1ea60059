# Everything a developer types. Each target installs what it needs first; a second run installs nothing.
# PYTHON=/path/to/python3.12 chooses the Python; PYTEST="-x -k name" adds words to pytest.

.DEFAULT_GOAL := help
BIN := .venv/bin
PYTEST ?=
# One thread per test process, and one process per core of the smallest machine; a file's tests stay together.
# They start hundreds of processes, which need not compile our code again each.
RUN_PYTEST = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
FAST := not slow and not chaos and not whole and not thorough and not browser and not gpu
.PHONY: help install install-dev demo test check lint format chaos thorough bench screenshots lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | awk -F '\t' '{printf "  make %-12s %s\n", $$1, $$2}'

install: ## ftcluster in .venv (about 2 minutes the first time)
	@deploy/install.sh

install-dev:
	@deploy/install.sh --dev

demo: install ## the whole product on a tiny model: train, sweep, compare, promote (about 4 minutes)
	@$(BIN)/ftcluster demo

test: install-dev ## all tests but those of `make chaos` or that need a GPU (under 8 minutes)
	@$(RUN_PYTEST) $(PARALLEL) -m "not chaos and not whole and not thorough and not gpu" $(PYTEST)

check: lint ## formatter, linter, types, layers, fast tests (about a minute)
	@$(RUN_PYTEST) $(PARALLEL) -m "$(FAST)" $(PYTEST)

lint: install-dev ## what `check` does before its tests
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: install-dev ## formats the code and repairs what the linter can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

chaos: install-dev ## tests that kill processes, and those that install or run everything
	@$(RUN_PYTEST) $(PARALLEL) -m "(chaos or whole) and not thorough and not gpu" $(PYTEST)

thorough: install-dev ## more variants of what `chaos` tests, before a release (about half an hour)
	@$(RUN_PYTEST) $(PARALLEL) -m "thorough and not gpu" $(PYTEST)

bench: install-dev ## each benchmark prints a ratio against a peer and how it was made
	@for benchmark in benchmarks/*_vs_*.py; do $(BIN)/python $$benchmark || exit 1; done

screenshots: install-dev ## takes the pictures of the README again, of the sweep that make demo made
	@$(BIN)/python benchmarks/screenshots.py runs tool-calls

lock: ## the newest versions that pyproject.toml allows into deploy/constraints.txt
	@deploy/lock.sh

clean: ## removes .venv, caches and build results; runs/ stays
	@rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
