# The commands a person needs. `make help` lists them; everything else is plain python, dvc and pytest.
PYTHON ?= python3
VENV ?= .venv
# Versions of all packages; .ci/lowest.txt has the lowest that are allowed.
LOCK ?= requirements.lock
# Of MLflow's page.
PORT ?= 5000
BIN := $(abspath $(VENV))/bin
# Stage commands run `python`: it must be the one of the virtual environment.
export PATH := $(BIN):$(PATH)
# Stages take their threads from conf/runtime/. Tests have one: tiny tensors wait for two of them.
test test-all test-part: export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup repro study test test-all test-part lint smoke ui demo docs dag clean clean-runs clean-exps

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint $(LOCK)
	@touch $@

# `dvc plots` without network: the page is local, so is the setting that names it.
.dvc/plots.html: $(VENV)/.installed .dvc/plots/page.py
	python .dvc/plots/page.py
	dvc config --local plots.html_template plots.html

setup: $(VENV)/.installed .dvc/plots.html ## Create .venv and install, in the versions of requirements.lock

repro: setup ## Run the whole study (dvc repro)
	dvc repro
	@echo; echo "Look at reports/index.html (or reports/report.md); make ui opens every run in MLflow."

study: setup ## Six seeds of the edition for the paper's claims, an experiment of hours
	dvc exp run -S edition=study -S 'seeds=[1,2,3,4,5]'

test: setup ## Run the tests
	python -m pytest

test-all: setup ## Run the tests, slow ones too
	python -m pytest -m ''

test-part: setup ## Run tests of the parts, without whole stages; for other environments
	python -m pytest -m 'not slow and not distributed' tests/test_config.py tests/metrics tests/tasks tests/merging tests/model tests/data

lint: setup ## Style and types
	ruff check . && ruff format --check . && mypy

smoke: setup ## Run the whole DAG at its smallest size in a scratch clone
	sh tests/workflow/smoke.sh

ui: setup ## Open the MLflow page of all runs at http://127.0.0.1:5000 (PORT=5000)
	@page='http://127.0.0.1:$(PORT)/#/experiments?workflowType=machine_learning'; echo "Runs: $$page"; \
	  (sleep 15; python -m webbrowser "$$page") > /dev/null 2>&1 &
	-python -m unival sync
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --workers 1 --port $(PORT) --backend-store-uri sqlite:///mlflow.db

demo: setup ## Ask the models of this checkout, or the one that comes with the package, at http://127.0.0.1:8000
	-python -m unival serve $(wildcard models/merged/unival models)

docs: setup ## The documentation as a site, docs/_build/docs/index.html
	sphinx-build --quiet --fail-on-warning --keep-going -c docs . docs/_build
	@echo "Open docs/_build/docs/index.html"

dag: setup ## Draw the stages
	dvc dag

clean: ## Remove scratch folders and sweep outputs
	rm -rf scratch multirun outputs

clean-runs: clean ## Remove every MLflow run too
	rm -rf mlflow.db mlartifacts mlspool

clean-exps: setup ## Forget all DVC experiments
	dvc exp remove --all-commits
