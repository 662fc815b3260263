# What CI runs, and what a person runs: the same targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install browser demo test fast lint types layers check clean

# Installed once per change of pyproject.toml; torch is pinned there.
install: $(VENV)/.installed
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# The tests of pages drive a real browser. Debian's is installed where there is none; where that needs rights
# that are not at hand, those tests are skipped, and say so.
browser:
	@if command -v chromium >/dev/null || command -v google-chrome >/dev/null; then true; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && apt-get install -qq --yes --no-install-recommends chromium >/dev/null; \
	elif command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then \
		sudo apt-get update -qq && sudo apt-get install -qq --yes --no-install-recommends chromium >/dev/null; \
	else echo "no browser: install chromium to run the tests of pages, which are skipped without it"; fi

demo: install
	$(BIN)/tunesmith demo

# Two processes of one thread each: on two cores that is faster than one process of two threads.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(WORKERS)

test: install browser
	$(PYTEST)

fast: install browser
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
