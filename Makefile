# What CI runs, and what a person runs: the same targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test fast lint types layers check clean

# Installed once per change of pyproject.toml; torch is pinned there.
install: $(VENV)/.installed
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/tunesmith demo

# Two processes of one thread each: on two cores that is faster than one process of two threads.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(WORKERS)

test: install
	$(PYTEST)

fast: install
	$(PYTEST) -m "not slow"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

layers: install
	$(BIN)/lint-imports

check: lint types layers test

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
