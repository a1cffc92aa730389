# Everything runs in a virtual environment of its own in .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
OLDEST := .venv-oldest
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Each file of tests stays in one process: its tests share a server or a job.
TWO_FILES_AT_A_TIME := -n 2 --dist loadfile --durations=15
# Two Airflows at a time; which tests share one, tests/integration/conftest.py says.
TWO_AIRFLOWS_AT_A_TIME := -n 2 --dist loadscope --durations=15
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

# Every dependency of ours at its lower bound, on the oldest Airflow; the tests' own tools as new as they come.
$(OLDEST)/.ready: pyproject.toml $(VENV)/.ready
	$(PYTHON) -m venv --clear $(OLDEST)
	$(BIN)/uv pip install --quiet --python $(OLDEST)/bin/python --resolution lowest-direct \
		--only-binary :all: --no-binary airflow-openai-batch --editable '.[s3,emulator]'
	$(BIN)/uv pip install --quiet --python $(OLDEST)/bin/python --group test
	@touch $@

.PHONY: setup
setup: $(VENV)/.ready ## Install the package and the developers' tools into .venv

.PHONY: setup-oldest
setup-oldest: $(OLDEST)/.ready ## The same with Airflow 3.1 and every dependency's lower bound into .venv-oldest

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
	pytest -q $(TWO_FILES_AT_A_TIME) tests --ignore=tests/integration

# What takes long, and of which the versions of Airflow and the libraries decide little, runs there with `make nightly`.
NIGHTLY_ON_OLDEST := tests/airflow/test_doc_blocks.py tests/airflow/test_servers.py

.PHONY: test-oldest
test-oldest: setup-oldest ## The fast tests and a few on real processes, on Airflow 3.1 and every dependency's lower bound
	$(OLDEST)/bin/python -m pytest -q $(TWO_FILES_AT_A_TIME) tests/unit tests/stores tests/airflow \
		$(addprefix --ignore=,$(NIGHTLY_ON_OLDEST))
	$(OLDEST)/bin/python -m pytest -q -m oldest tests/integration

.PHONY: test-integration
test-integration: setup ## The tests that start Airflow's own processes, and a browser; needs PostgreSQL, Redis and Chromium
	pytest -q $(TWO_AIRFLOWS_AT_A_TIME) tests/integration

.PHONY: test-mysql
test-mysql: setup ## The tests of databases with MariaDB too; needs its server, its client's headers and a compiler
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps apache-airflow-providers-mysql mysqlclient
	pytest -q tests/airflow/sql

.PHONY: test-browser
test-browser: setup ## Of these, only the page in a real browser
	pytest -q tests/integration/browser

.PHONY: pictures
pictures: setup ## The same, and its screenshots and an animation of them into docs/images
	SCREENSHOTS=docs/images pytest -q tests/integration/browser
	python docs/_build/film.py docs/images

.PHONY: test-all
test-all: test test-integration ## All tests but the nightly ones

.PHONY: nightly
nightly: setup setup-oldest ## What need not run with each change: Airflow itself, all benchmarks, page and jobs on Airflow 3.1, the package
	pytest -q -m nightly tests
	$(OLDEST)/bin/python -m pytest -q $(NIGHTLY_ON_OLDEST) tests/integration/browser tests/integration/test_jobs.py
	python .ci/package.py
	python .ci/package.py --airflow 3.1.8

.PHONY: demo
demo: setup ## Nightly labeling in a real Airflow against the emulator: no key, no cost
	python -m airflow_openai_batch.demo

.PHONY: ui
ui: setup ## Airflow with jobs in all states, to look at until Ctrl-C: no key, no cost
	python -m airflow_openai_batch.demo --ui

.PHONY: chaos
chaos: setup ## 200,000 rows on a real Airflow while everything around it breaks; needs PostgreSQL's programs
	python tests/integration/chaos.py

.PHONY: bench
bench: setup ## The benchmarks of docs/performance.md: two hours or more, 30 GB of disk
	python benchmarks/run_all.py

.PHONY: bench-quick
bench-quick: setup ## Their main ratios in under ten minutes; fails if one is much worse than the kept one
	python benchmarks/bench_quick.py

.PHONY: prices
prices: setup ## Make the table of prices anew from two sources on PyPI, and print where they differ
	python .ci/update_prices.py

.PHONY: docs
docs: setup ## Build the documentation into site/; a broken link fails it
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --strict

.PHONY: docs-serve
docs-serve: setup ## Show the documentation at http://127.0.0.1:8000, and anew with each change
	NO_MKDOCS_2_WARNING=1 mkdocs serve

.PHONY: licences
licences: setup ## Write the page of dependencies and licences anew
	python .ci/licences.py

.PHONY: package
package: setup ## Build wheel and sdist, install the wheel into an empty environment and look for everything; AIRFLOW=3.1.8
	python .ci/package.py $(if $(AIRFLOW),--airflow $(AIRFLOW))

.PHONY: release
release: setup ## Write VERSION=1.2.0 into the package and the changelog; nothing is uploaded
	python .ci/release.py $(VERSION)

.PHONY: clean
clean: ## Remove what the other targets made
	rm -rf $(VENV) $(OLDEST) .demo site
