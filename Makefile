# Two commands suffice: `make run` and `make test`. Both set up .venv first.
.DEFAULT_GOAL := help
.PHONY: help setup run dashboard test test-fast check lint format clean lock

# the first of these that runs and is 3.11 or 3.12, the versions that genai-bench supports
ifndef PYTHON
PYTHON := $(shell for python in python3 python3.12 python3.11; do $$python -c 'import sys, venv; sys.exit(not (3, 11) <= \
  sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$python && break; done)
endif
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

help:  ## Show this help
	@echo "tuner finds the serving configuration of an LLM engine with the best latency/throughput trade-off. Type:"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make run ARGS='+experiment=llama1b trials=30'   passes your own arguments to python -m tuner"

setup: $(READY)  ## Create .venv with everything in it (run and test do this by themselves)

$(READY): pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "No Python 3.11 or 3.12 with venv found; use: make setup PYTHON=/path/to/python3.12" >&2; exit 3; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version) (about a minute, 1.2 GB) ..."
	@$(PYTHON) -m venv $(VENV)
	@PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --no-compile \
	  -e '.[llamacpp,dashboard,dev]'
	@touch $(READY)

ARGS ?= +experiment=llama1b
run: setup  ## Tune: deploy, benchmark and compare configurations (on this CPU where there is no GPU)
	@$(BIN)/python -m tuner $(ARGS)

dashboard: setup  ## Browse all studies at http://127.0.0.1:8080
	@$(BIN)/python -m tuner dashboard

# two at a time, but for those that compare what they measure; make test PROCESSES=0 runs all one after the other
PROCESSES ?= 2
test: setup  ## Run all tests that need no GPU (minutes)
	@$(BIN)/python -m pytest -n $(PROCESSES) -m "not alone"; code=$$?; $(BIN)/python -m pytest -m alone && exit $$code

test-fast: setup  ## Run the unit tests (seconds)
	@$(BIN)/python -m pytest -n 2 -m "not slow"

check: lint test  ## Run lint, types and all tests; green before every commit

lint: setup  ## Check style, formatting and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup  ## Format the code
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format .

clean:  ## Remove servers of killed runs, the environment and caches; studies/ stays
	@if [ -x $(BIN)/tuner ]; then $(BIN)/python -m tuner clean; fi
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

lock:  ## Write constraints.txt anew with today's newest allowed versions
	@rm -rf .lock && $(PYTHON) -m venv .lock
	@.lock/bin/python -m pip install --quiet --no-compile -e '.[llamacpp,dashboard,dev]'
	@{ echo "# Exact versions of everything; written by make lock."; \
	   .lock/bin/python -m pip freeze --exclude-editable; sed -n 's/^requires = \["\(setuptools==.*\)"\]/\1/p' pyproject.toml; } > constraints.txt
	@rm -rf .lock
