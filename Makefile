# Everything runs in .venv, which the first target makes. `make` alone lists the targets.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
QUICKSTART := runs/quickstart
DIGITS := runs/digits

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-full lint types imports format zoo bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Wanted Python 3.11 or newer; got " + sys.version.split()[0] + ". Type: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

setup: $(READY) ## make .venv with everything in it

quickstart: $(READY) ## train, evaluate and predict on the embedded digits; ends in a page to look at
	@if [ -d $(QUICKSTART) ]; then $(BIN)/allmlp train resume=$(QUICKSTART); \
	else $(BIN)/allmlp train quickstart out=$(QUICKSTART); fi
	@test -f $(QUICKSTART)/evaluation/metrics.json || $(BIN)/allmlp evaluate $(QUICKSTART)
	@test -d $(DIGITS) || $(BIN)/allmlp data digits out=$(DIGITS)
	@$(BIN)/allmlp predict $(QUICKSTART) '$(DIGITS)/val/*/00*.png' out=$(QUICKSTART)/predictions top=3
	@echo "Open $(QUICKSTART)/report.html"

# What runs models in other runtimes is tested by processes of its own: those libraries bring threads and handlers along.
RUNTIMES := tests/backends tests/export tests/peers tests/speed tests/verbs/test_export.py tests/verbs/test_benchmark.py

test: $(READY) ## the default tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto $(RUNTIMES)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests $(RUNTIMES:%=--ignore=%)

test-full: $(READY) ## all tests: published sizes whole, several processes, minutes of training
	ALLMLP_FULL_MODELS=1 $(BIN)/python -m pytest -m ''

lint: $(READY) ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## mypy
	$(BIN)/mypy

imports: $(READY) ## import contracts
	$(BIN)/lint-imports

format: $(READY) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

zoo: $(READY) ## write docs/zoo.md anew
	$(BIN)/python docs/make_zoo.py

bench: $(READY) ## measure all of docs/performance.md anew; nothing else should run meanwhile
	$(BIN)/python benchmarks/input_pipeline.py
	$(BIN)/python benchmarks/speed.py infer train resolution

clean: ## remove .venv and caches; run folders stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache build dist
