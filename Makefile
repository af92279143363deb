# `make study`: see degradation and its cure. `make test`: the tests. Both set up .venv first; nothing else is needed.
#   PYTHON=python3.12       another interpreter (3.11 or 3.12)
#   VENV=/path              another virtual environment
#   PIP_FLAGS="…"           passed to pip, for an index of your own

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
BIN := $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(PIP_FLAGS)

.PHONY: study test test-slow check format install dev clean

study: install
	$(BIN)/resnetlab study

test: dev  # files side by side, a core each; the slow ones use all cores themselves, and some look at the clock
	$(BIN)/python -m pytest --numprocesses logical --dist loadfile

test-slow: dev
	$(BIN)/python -m pytest -m slow

check: dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

format: dev
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

install: $(VENV)/.installed

dev: $(VENV)/.installed-dev

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "resnetlab needs Python 3.11 or newer; say which with: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.python pyproject.toml constraints.txt
	@echo "installing into $(VENV) (a minute or two, once)"
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP_INSTALL) --editable '.[dev,data,track,explain,export,serve,cluster,remote]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache src/*.egg-info
