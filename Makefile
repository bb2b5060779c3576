# Everything a fresh machine needs: Python 3.11 or newer with venv, make, and a package index.
#   make quickstart   install, then train the embedded model on Countdown (two to three minutes of training)
#   make test         install with the tests' extras, then lint, types and all tests
#   make check        the same without installing again

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: quickstart test check lint types tests fast clean

quickstart: $(VENV)/.installed
	$(BIN)/dunwu quickstart

test: $(VENV)/.installed-dev
	$(MAKE) --no-print-directory check

check: lint types tests

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

tests:
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

fast:
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow"

# torch goes first and alone: pinned in constraints.txt, it is not chosen anew by anything installed after it.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Dunwu needs Python 3.11 or newer; call make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist runs .pytest_cache .mypy_cache .ruff_cache
