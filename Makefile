# `make` alone lists what there is. Everything runs in .venv, made from pyproject.toml.
PYTHON ?= python3
SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup demo demo-model test lint test-crash clean
.DEFAULT_GOAL := help

help:
	@echo "make demo        self-train the bundled model on bundled photographs (SEED=0)"
	@echo "make test        lint, types and all tests"
	@echo "make test-crash  the demo-size flow killed at every publish boundary (long)"
	@echo "make demo-model  make the bundled base VLM anew"

# A stamp, so that an unchanged pyproject.toml installs nothing again.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 12) else "Python 3.11 or 3.12 is needed, found %d.%d; say which: make PYTHON=python3.11 .." % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

setup: $(VENV)/.installed

demo: export PREFECT_HOME ?= $(CURDIR)/whyscore-data/prefect
demo: setup
	$(BIN)/whyscore demo --seed $(SEED)

demo-model: setup
	$(BIN)/python -m pipeline_lib.demo.make_model --out pipeline_lib/demo/model --seed 0

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

test-crash: setup
	$(BIN)/python -m pytest tests/crash --demo-size

clean:
	rm -rf whyscore-data
