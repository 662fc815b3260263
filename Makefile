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

test: install
	$(BIN)/pytest

fast: install
	$(BIN)/pytest -m "not slow"

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
