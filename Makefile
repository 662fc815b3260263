# What CI runs, and what a person runs: the same targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install system demo test fast lint types layers check clean

# Installed once per change of pyproject.toml; torch is pinned there.
install: $(VENV)/.installed
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# What some tests need beside Python: a browser for the pages, PostgreSQL for servers that share a database. Debian's
# are installed where there are none; where that needs rights that are not at hand, those tests are skipped, and say so.
system:
	@missing=""; \
	command -v chromium >/dev/null || command -v google-chrome >/dev/null || missing="chromium"; \
	command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$$missing postgresql"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then as_root=""; \
	elif command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then as_root="sudo"; \
	else echo "not installed: $$missing; the tests that need it are skipped"; exit 0; fi; \
	$$as_root apt-get update -qq && $$as_root apt-get install -qq --yes --no-install-recommends $$missing >/dev/null

demo: install
	$(BIN)/tunesmith demo

# Two processes of one thread each: on two cores that is faster than one process of two threads. Each begins with half of
# the files, which share servers and jobs, and takes over what the other has left at the end.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal

test: install system
	$(PYTEST)

fast: install system
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
