# Everything needs only Python 3.11 or later: `make test PYTHON=python3.12` picks another one.
PYTHON ?= python3
VENV ?= .venv

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := $(abspath $(VENV))/bin
INSTALLED := $(VENV)/.installed
# Folders that are installed inside the package; the same list as `package-dir` in pyproject.toml.
MAPPED := configs serve shards tools

# Only errors are shown. Modules are compiled when they are first imported: most of what comes along never is.
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

.PHONY: help install demo methods bench faults test check format lint types unit

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

install: $(INSTALLED) ## make .venv with mmalign and the tested versions (everything below does it where needed)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo 'mmalign needs Python 3.11 or later; name one, e.g. make PYTHON=python3.12 …' >&2; exit 1; }
	@echo "install: mmalign and its test tools into $(VENV) (less than 2 GB, a minute or two)"
	@rm -f $@
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --no-compile --constraint constraints.txt setuptools # builds ours below, without an isolated, unpinned copy
	@$(PIP) install --no-compile --constraint constraints.txt --no-build-isolation --editable '.[test]'
	@touch $@

demo: $(INSTALLED) ## the embedded model before and after DPO, then a question to the served model
	@echo 'demo: mmalign demo'
	@$(BIN)/mmalign demo

methods: $(INSTALLED) ## every method on the embedded model: the measured columns of configs/README.md (under an hour)
	@echo 'methods: mmalign sweep --config sweeps/methods.yaml'
	@$(BIN)/mmalign sweep --config sweeps/methods.yaml --out runs/methods --jobs 2 --readme configs/README.md
	@cp runs/methods/table.json benchmarks/results/methods.json

bench: $(INSTALLED) ## a DPO step beside TRL's, loader, resume, memory, ranks: benchmarks/results (leave the machine alone)
	@echo 'bench: a DPO step beside TRL'
	@$(BIN)/python benchmarks/dpo_step.py --out benchmarks/results/dpo_step.json
	@echo 'bench: the loader'
	@$(BIN)/python benchmarks/loader.py
	@echo 'bench: import, and a judge over a failing API'
	@$(BIN)/python benchmarks/importing.py
	@$(BIN)/python benchmarks/judging.py
	@echo 'bench: rejected answers without labels'
	@$(BIN)/python benchmarks/contrast.py
	@echo 'bench: from the command to its first step'
	@$(BIN)/python benchmarks/first_step.py
	@echo 'bench: a resume anywhere in a million rows, and broken samples'
	@$(BIN)/python benchmarks/resume.py
	@$(BIN)/python benchmarks/quarantine.py
	@echo 'bench: the memory plan against what a step allocates'
	@$(BIN)/python benchmarks/memory.py
	@echo 'bench: ZeRO-3 on CPU ranks beside one process'
	@$(BIN)/python benchmarks/zero3.py
	@echo 'bench: the server beside transformers serve'
	@$(BIN)/python benchmarks/serving.py --out benchmarks/results/serving.json

faults: $(INSTALLED) ## kills, signals, full disks and broken files, by the hundred: benchmarks/results (under an hour)
	@echo 'faults: the tests marked faults'
	@$(BIN)/python benchmarks/faults.py

test: check ## check, then the slow tests: the whole suite, through the real command line
	@echo 'test: slow tests'
	@$(BIN)/python -m pytest -q -m 'slow and not faults' --durations=10

check: lint types unit ## format, lint, types and the fast tests

lint: $(INSTALLED)
	@echo 'check: format'
	@$(BIN)/ruff format --check --quiet . || { echo 'check: run `make format`' >&2; exit 1; }
	@echo 'check: lint'
	@$(BIN)/ruff check --quiet .

# mypy does not follow the mapping of an editable install, so it gets the package as a wheel would lay it out, made of
# links. It names files by that layout; the last line gives them back the paths they have here.
types: $(INSTALLED)
	@echo 'check: types'
	@rm -rf build/types && mkdir -p build/types/mmalign
	@ln -s $(abspath $(wildcard mmalign/*)) $(addprefix $(CURDIR)/,$(MAPPED)) build/types/mmalign/
	@cd build/types && $(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p mmalign \
	    | sed -E 's#^mmalign/($(subst $() ,|,$(MAPPED)))/#\1/#'

unit: $(INSTALLED)
	@echo 'check: fast tests'
	@$(BIN)/python -m pytest -q -m 'not slow and not faults'

format: $(INSTALLED) ## let ruff rewrite the code: format, sorted imports, safe fixes
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format --quiet .
