# Everything runs in a virtual environment of its own in .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Airflow starts many processes; compiled bytecode makes each start three times as fast.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 20

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --group dev --editable '.[s3,emulator]'
	@touch $@

.PHONY: setup
setup: $(VENV)/.ready ## Install the package and the developers' tools into .venv

.PHONY: format
format: setup ## Rewrite the code in the project's style
	ruff format .
	ruff check --fix .

.PHONY: check
check: setup ## Lint, types, layers, spelling
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	codespell airflow_openai_batch dags_examples docs tests README.md CHANGELOG.md

.PHONY: test-unit
test-unit: setup ## The fast tests: no Airflow, no network
	pytest -q tests/unit

.PHONY: test
test: setup ## All tests but those that start Airflow's own processes
	pytest -q tests --ignore=tests/integration

.PHONY: test-integration
test-integration: setup ## The tests that start Airflow's own processes; needs PostgreSQL's programs
	pytest -q tests/integration

.PHONY: test-all
test-all: test test-integration ## All tests

.PHONY: demo
demo: setup ## Nightly labeling in a real Airflow against the emulator: no key, no cost
	python -m airflow_openai_batch.demo

.PHONY: chaos
chaos: setup ## 200,000 rows on a real Airflow while everything around it breaks; needs PostgreSQL's programs
	python tests/integration/chaos.py

.PHONY: clean
clean: ## Remove what the other targets made
	rm -rf $(VENV) .demo
