# Everything runs in .venv/, which is set up when it is missing or when requirements.lock has changed.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# No part of the stack phones home; MLflow understands "true" only.
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DVC_NO_ANALYTICS := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export GX_ANALYTICS_ENABLED := false
export DISABLE_MLFLOW_INTEGRATION := TRUE
# Threads that wait sleep instead of spinning (docs/threads.md); the product says so too, unless torch is loaded first.
export OMP_WAIT_POLICY ?= PASSIVE
export PATH := $(CURDIR)/$(BIN):$(PATH)
# The packages are installed uncompiled: the first process that imports one must leave it compiled for the others.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup retrain data test test-slow test-long check serve bench format lock docs references docs-lock

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Set up .venv/ from requirements.lock

# .ready comes last: what an interrupted setup leaves is made anew.
$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not on the PATH; install Python 3.11 or say make PYTHON=..." >&2; exit 1; }
	@scripts/setup.sh $(PYTHON) $(VENV)
	@echo "  touchstone itself"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

retrain: setup ## Run the whole pipeline: data to a promoted champion; OVERRIDES="group=choice key=value"
	@$(BIN)/touchstone retrain $(OVERRIDES)

data: setup ## Recreate data/ from the committed pointer data.dvc
	@$(BIN)/touchstone data import

test: setup ## Run the tests that take seconds (about 5 minutes in all)
	@$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-slow: setup ## Run the tests that take minutes
	@$(BIN)/python -m pytest -m "slow and not long" --timeout 900 --numprocesses 2 --dist worksteal

test-long: setup ## Run the tests that install whole environments or train several models
	@$(BIN)/python -m pytest -m long --timeout 3600

check: setup ## Lint, format and type checks
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

serve: setup ## Serve the champion on this machine
	@$(BIN)/touchstone serve

bench: setup ## Measure the pipeline end to end and print the table
	@$(BIN)/python -m benchmarks.pipeline

# The site of the documents has an environment and a lock of its own (docs/requirements.in): it never moves a version
# that scores. It needs no .venv/.
DOCS := .venv-docs
$(DOCS)/.ready: docs/requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not on the PATH; install Python 3.11 or say make PYTHON=..." >&2; exit 1; }
	@rm -rf $(DOCS) && $(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r docs/requirements.lock
	@touch $@

docs: $(DOCS)/.ready ## Build the site of the documents in build/site; a link to nothing fails
	@$(DOCS)/bin/python scripts/site.py
	@$(DOCS)/bin/zensical build --clean --strict --config-file mkdocs.yml

references: setup ## Write the reference pages of the documents from the code
	@$(BIN)/python -m scripts.references

docs-lock: setup ## Compile docs/requirements.in into docs/requirements.lock
	@$(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-header --no-emit-index-url \
		--output-file docs/requirements.lock docs/requirements.in

# What is locked stays as long as requirements.in allows it: a package more moves no other. pip-compile writes torch as it
# finds it (a local version, a digest of one build); the lock names the version alone.
lock: setup ## Compile requirements.in into requirements.lock; UPGRADE="--upgrade" takes newer versions
	@cp requirements.lock $(VENV)/compiled.lock
	@CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras \
		--no-emit-find-links --no-emit-index-url --no-emit-options $(UPGRADE) --output-file $(VENV)/compiled.lock requirements.in
	@awk '/^torch==/ {sub(/[+ ].*/, ""); print; skip=1; next} /^[^ ]/ {skip=0} !(skip && /--hash/)' \
		$(VENV)/compiled.lock > requirements.lock
