# Every target creates what it needs: on a fresh clone `make test` or `make compare` alone is enough.
# Override on the command line: make test PYTHON=python3.12 WORKERS=8 ARGS="tests/model -k gaussian"

PYTHON  ?= python3
VENV    ?= .venv
WORKERS ?= 2
ARGS    ?=

BIN    := $(VENV)/bin
# The tables of docs/fidelity.md and docs/check.md take hours: they have targets of their own.
BENCHMARKS := $(filter-out benchmarks/_% benchmarks/%_table.py,$(sort $(wildcard benchmarks/*.py)))
# Stamps: pip runs again only when pyproject.toml changed.
RUN    := $(VENV)/.installed
DEV    := $(VENV)/.installed-dev
DOCS   := $(VENV)/.installed-docs

# One thread per process: the tests run side by side, and threads that compete for two cores slow all of them.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

SHELL         := /bin/bash
.SHELLFLAGS   := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help compare test lint format docs bench fidelity check-methods peers coverage clean

help: ## say what can be made
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

compare: $(RUN) ## the default comparison on a bundled data set: verdict and report
	$(BIN)/bayesify compare diabetes $(ARGS)

test: $(DEV) ## the whole test suite
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

lint: $(DEV) ## style, formatting, types, architecture
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV) ## rewrite the files as `make lint` wants them
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(DOCS) ## the documentation as HTML; a warning is an error
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(DEV) ## every benchmark in benchmarks/, one after the other, on an otherwise idle machine
	@for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python "$$script" $(ARGS); done

fidelity: $(DEV) ## the table of docs/fidelity.md: hours; the same command continues
	$(ONE_THREAD) $(BIN)/python benchmarks/fidelity_table.py --workers $(WORKERS) $(ARGS)

check-methods: $(DEV) ## the table of docs/check.md: every method against what it declares; the same command continues
	$(ONE_THREAD) $(BIN)/python benchmarks/check_table.py --workers $(WORKERS) $(ARGS)

peers: ## what the benchmarks compare with, in an environment of its own (.venv-peers)
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements-peers.txt

coverage: $(DEV) ## the suite with branch coverage
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --cov --cov-report=term:skip-covered --cov-report=html:.coverage-html $(ARGS)

clean: ## remove the environment and everything generated (never bayesify-results/)
	rm -rf .venv .venv-peers build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage*
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "bayesify needs Python 3.11 or newer, and '$(PYTHON)' is older or missing: make ... PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUN): pyproject.toml | $(BIN)/python
	@echo "installing bayesify into $(VENV) (torch is most of it)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(DEV): pyproject.toml | $(BIN)/python
	@echo "installing bayesify and its development tools into $(VENV) (torch is most of it)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(RUN) $@

$(DOCS): pyproject.toml | $(BIN)/python
	@echo "installing bayesify and the documentation's tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $(RUN) $@
