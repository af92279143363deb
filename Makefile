# `make study`: see degradation and its cure. `make test`: the tests. Each target creates .venv first and installs into it.
#   PYTHON=python3.12       another interpreter (3.11 or newer)
#   VENV=/path              another virtual environment
#   PIP_FLAGS="…"           flags for pip; for PyTorch without CUDA on Linux:
#                           PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
BIN := $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(PIP_FLAGS)

.PHONY: study test test-slow check format results docs install dev clean

study: install
	$(BIN)/resnetlab study

test: dev  # one file per core; COVERAGE=1 prints the coverage
	$(BIN)/python -m pytest --numprocesses logical --dist loadfile $(if $(COVERAGE),--cov --cov-report=term:skip-covered)

test-slow: dev  # one file per core, then the tests that use every core themselves, or measure time or memory
	$(BIN)/python -m pytest -m "slow and not alone" --numprocesses logical --dist loadfile
	$(BIN)/python -m pytest -m "slow and alone"

check: dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: dev
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

results: install  # the tables and the figure of README.md and docs/results.md again, from the records in docs/results
	$(BIN)/python benchmarks/results.py

docs: dev  # warnings are errors; then every internal link and anchor is checked
	$(BIN)/python -m sphinx -b html -n -W --keep-going -q docs docs/_build/html
	$(BIN)/python docs/_ext/check_links.py docs/_build/html

install: $(VENV)/.installed

dev: $(VENV)/.installed-dev

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "resnetlab needs Python 3.11 or newer; select one with: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.python pyproject.toml constraints.txt
	@echo "installing into $(VENV) (a minute or two, once)"
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP_INSTALL) --editable '.[all,dev,docs]'
	@touch $@

clean:
	rm -rf $(VENV) build dist docs/_build .pytest_cache .ruff_cache src/*.egg-info
