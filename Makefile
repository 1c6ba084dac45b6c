# `make help` lists the targets. Each of them does everything it needs, from a fresh clone.
#
#   PYTHON=python3.13 make test      chooses the interpreter (3.11 or newer) and rebuilds .venv for it
#   make train ARGS="--config.seed=1 --config.epochs=2" WORKDIR=runs/seed1
#   make install REQUIREMENTS=requirements-cuda13.txt      on a machine with an NVIDIA GPU

VENV ?= .venv
# Both ends of what requirements.txt allows.
PYTHONS ?= python3.11 python3.13

# Without a choice, the interpreter of an existing .venv stays.
ifeq ($(origin PYTHON), undefined)
PYTHON := $(or $(wildcard $(VENV)/bin/python), python3)
endif
REQUIREMENTS ?= requirements.txt
CONFIG ?= experiments/configs/lenet.py
WORKDIR ?= runs/$(basename $(notdir $(CONFIG)))

BIN := $(VENV)/bin
VERSION := import sys; print(sys.version)
# Where the commands are found from another folder than this one. A linked .venv is another clone's.
PLACE := import pathlib, experiments; print(pathlib.Path(experiments.__file__).resolve().parent.parent)
# What .venv was made from: the interpreter's full version and the content of the requirements.
STAMP := import hashlib, sys; print(sys.version, sys.argv[1], hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())

.PHONY: help install data train test test-all test-pythons wheel mutants lint format lock clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 14

install:  ## make .venv with the pinned requirements and this package, when something is not there
	@$(PYTHON) -c '' 2>/dev/null || \
	  { echo "make: $(PYTHON) does not run; name a Python 3.11 or newer: PYTHON=python3.12 make …" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is $$($(PYTHON) -V), but Python 3.11 or newer is needed: PYTHON=python3.12 make …" >&2; exit 1; }
	@set -e; \
	stamp="$$($(PYTHON) -c '$(STAMP)' $(REQUIREMENTS))"; \
	if [ "$$(cat $(VENV)/stamp 2>/dev/null)" != "$$stamp" ]; then \
	  if [ "$$($(BIN)/python -c '$(VERSION)' 2>/dev/null)" != "$$($(PYTHON) -c '$(VERSION)')" ]; then \
	    echo "making $(VENV) with $$($(PYTHON) -V)"; \
	    $(PYTHON) -m venv --clear $(VENV); \
	  fi; \
	  echo "installing $(REQUIREMENTS) into $(VENV), which takes minutes"; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS); \
	  echo "$$stamp" > $(VENV)/stamp; \
	fi; \
	if [ ! -L $(VENV) ] && [ "$$($(BIN)/python -I -c '$(PLACE)' 2>/dev/null)" != "$$(pwd -P)" ]; then \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --no-deps --no-index --no-build-isolation --editable .; \
	fi

data: install  ## fetch Fashion-MNIST into data/, when it is not there
	@$(BIN)/python -m experiments.prepare_data fashion_mnist

train: data  ## train LeNet on Fashion-MNIST into runs/lenet; CONFIG, WORKDIR and ARGS choose others
	$(BIN)/python -m experiments.train --config=$(CONFIG) --workdir=$(WORKDIR) $(ARGS)

lint: install  ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## put the code into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint  ## lint, then all tests but the slow ones
	$(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses=8 --dist worksteal

test-all: lint  ## lint, then all tests, compiled with all optimizations
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest -n auto --maxprocesses=8 --dist worksteal

test-pythons:  ## all that `make test` does, with each of PYTHONS that runs here
	@set -e; ran=""; for python in $(PYTHONS); do \
	  if $$python -c '' 2>/dev/null; then \
	    $(MAKE) test PYTHON=$$python VENV=.venv-$$python; ran="$$ran $$python"; \
	  else \
	    echo "$$python does not run here and is left out"; \
	  fi; \
	done; \
	test -n "$$ran" && echo "passed with$$ran"

wheel: install  ## build dist/*.whl and try it in an empty environment
	@set -e; empty="$$(mktemp -d)"; trap 'rm -rf "$$empty"' EXIT; \
	rm -rf dist; \
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check \
	  --no-deps --no-build-isolation --wheel-dir dist .; \
	$(PYTHON) -m venv "$$empty/venv"; \
	echo "installing $$(ls dist/*.whl) with its dependencies, which takes minutes"; \
	"$$empty/venv/bin/python" -m pip install --quiet --disable-pip-version-check dist/*.whl; \
	cp tests/wheel.py "$$empty"; cd "$$empty"; venv/bin/python -I wheel.py

mutants: install  ## put faults into MODULE=cnn_jax/losses.py: do its tests see them? SAMPLE=60: 60 of them
	$(BIN)/python -m tests.mutants $(MODULE) $(if $(SAMPLE),--sample=$(SAMPLE))

# One lock for every Python and platform: markers choose, hashes pin. The accelerators' locks take
# the same versions of what they share with it. UPGRADE=--upgrade takes the newest of everything.
lock:  ## compile requirements*.txt anew from pyproject.toml; UPGRADE=--upgrade for the newest
	@set -e; tools="$$(mktemp -d)"; trap 'rm -rf "$$tools"' EXIT; \
	$(PYTHON) -m venv "$$tools"; \
	"$$tools/bin/python" -m pip install --quiet --disable-pip-version-check uv; \
	compile() { \
	  file="$$1"; shift; echo "compiling $$file"; \
	  set -- pyproject.toml --extra dev "$$@" --universal --python-version 3.11 --generate-hashes; \
	  "$$tools/bin/uv" pip compile --quiet --no-header $(UPGRADE) "$$@" -o "$$file"; \
	  { echo "# Exact versions and hashes of all dependencies, for Python 3.11 and later, in one file."; \
	    echo "# Made by \`make lock\` from the direct dependencies in pyproject.toml; do not edit. It runs"; \
	    echo "#   uv pip compile $$* -o $$file"; \
	    cat "$$file"; } > "$$tools/lock"; \
	  cp "$$tools/lock" "$$file"; \
	}; \
	compile requirements.txt; \
	compile requirements-cuda13.txt --extra cuda13 -c requirements.txt; \
	compile requirements-tpu.txt --extra tpu -c requirements.txt

clean:  ## remove .venv and the tools' caches; data/ and runs/ stay
	rm -rf .venv .venv-* .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
