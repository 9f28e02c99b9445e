# Two commands matter: `make demo` and `make test`. Both start from nothing but a supported Python.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# PYTHON=/path/to/python chooses one; otherwise the first supported interpreter on PATH.
PYTHON ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq

.PHONY: help demo test test-slow test-gpu lint format bench clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.installed ## train on the embedded task with the embedded language model and write demo/report.html
	@$(BIN)/lamo demo

test: lint ## lint, type check, then the whole suite but what is marked slow or gpu
	@$(BIN)/python -m pytest -q

test-slow: $(VENV)/.installed-dev ## the tests marked slow
	@$(BIN)/python -m pytest -q -m "slow and not gpu"

test-gpu: $(VENV)/.installed-dev ## the tests that need a CUDA device
	@$(BIN)/python -m pytest -q -m gpu

lint: $(VENV)/.installed-dev ## ruff (rules and format) and pyright
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .
	@$(BIN)/pyright

format: $(VENV)/.installed-dev ## let ruff rewrite what it can
	@$(BIN)/ruff check -q --fix .
	@$(BIN)/ruff format -q .

bench: $(VENV)/.installed-dev ## speed and memory as ratios to references and floors: one table, in about ten minutes
	@$(BIN)/python benchmarks/all.py

clean: ## remove what a run leaves behind; the virtual environment stays (rm -rf .venv removes it)
	@rm -rf demo dist build .pytest_cache .ruff_cache .hypothesis
	@find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are renewed when pyproject.toml changes; a failed installation leaves none behind.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing lamo into $(VENV) (only when pyproject.toml has changed; torch takes a few minutes) ..."
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "Installing lamo and its checks into $(VENV) (only when pyproject.toml has changed; torch takes a few minutes) ..."
	@$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.installed

# An older pip, as Python 3.10 brings it, looks for many minutes for versions that fit together.
$(BIN)/python:
	@for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.10); do \
		if "$$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then \
			if ! "$$candidate" -m venv $(VENV); then \
				rm -rf $(VENV); \
				echo "$$candidate cannot make a virtual environment; on Debian or Ubuntu: apt-get install python3-venv" >&2; \
				exit 1; \
			fi; \
			$(PIP) 'pip>=24' && exit 0; \
			rm -rf $(VENV); \
			exit 1; \
		fi; \
	done; \
	echo "lamo needs Python 3.10 to 3.13 and found none; name one with make PYTHON=/path/to/python" >&2; \
	exit 1
