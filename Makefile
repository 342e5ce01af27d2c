# resynth: `make help` lists the targets. Each does its own set-up in .venv; only Python 3.11 or 3.12 is needed.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PROFILE ?= laptop
NB ?=
SEEDS ?=
SET ?=
PYTHON ?= $(shell command -v python3.11 || command -v python3)

ifneq ($(strip $(RESYNTH_DATA)),)
export RESYNTH_DATA
endif

BIN   := .venv/bin
STAMP := .venv/.installed
PIP   := $(BIN)/python -m pip install -qq --disable-pip-version-check --only-binary :all:
TORCH := $(shell sed -n 's/^torch==//p' requirements.lock)
CPU_INDEX := https://download.pytorch.org/whl/cpu
RUN_ARGS = --profile "$(PROFILE)" --nb "$(NB)" --seeds "$(SEEDS)" $(foreach s,$(SET),--set "$(s)")

.PHONY: help env lab export test smoke reproduce plan matrix report check

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{printf "%-16s %s\n", $$1, $$2}'

env: $(STAMP) ## install everything into .venv (CPU build of torch where there is no NVIDIA GPU)

$(STAMP): requirements.lock requirements.in pyproject.toml settings.ini
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || { echo "resynth needs Python 3.11 or 3.12, '$(PYTHON)' is another: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "installing into .venv (once, about 2 minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@if [ "$$(uname -s)" = Linux ] && ! nvidia-smi >/dev/null 2>&1; then \
	  $(BIN)/python -c 'import torch, sys; sys.exit(torch.__version__.split("+")[0] != "$(TORCH)")' 2>/dev/null \
	  || $(PIP) "torch==$(TORCH)+cpu" 2>/dev/null \
	  || $(PIP) --extra-index-url $(CPU_INDEX) "torch==$(TORCH)+cpu" \
	  || { echo "no CPU build of torch $(TORCH) to be had: add a package source that has it, or reach $(CPU_INDEX)"; exit 1; }; \
	else $(PIP) "torch==$(TORCH)"; fi
	@$(PIP) -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

lab: $(STAMP) ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab

export: $(STAMP) ## clean the notebooks and write lib/ from nbs/
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_clean --fname reproducibility
	$(BIN)/nbdev_export

test: $(STAMP) ## fix-points, notebook tests, pytest, every numbered notebook at smoke
	$(BIN)/resynth fixpoints
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --path nbs --n_workers 2 --do_print
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/resynth fetch --profile smoke
	printf '2,4,91,92\n1,3\n' | OMP_NUM_THREADS=1 xargs -P 2 -I{} $(BIN)/resynth reproduce --profile smoke --nb {}
	$(BIN)/resynth reproduce --profile smoke --nb 90
	@echo "fix-points, notebooks, pytest and smoke runs:"
	@echo "4 passed, 0 failed"

smoke: $(STAMP) ## run the numbered notebooks at profile smoke (NB=11 for one)
	$(BIN)/resynth reproduce --profile smoke --nb "$(NB)"

reproduce: $(STAMP) ## run the numbered notebooks (PROFILE=laptop NB= SEEDS= SET= RESYNTH_DATA=) and print the claims
	$(BIN)/resynth reproduce $(RUN_ARGS)

plan: $(STAMP) ## print what a run would cost, before it (PROFILE=laptop NB= SEEDS= SET=)
	$(BIN)/resynth plan $(RUN_ARGS)

matrix: $(STAMP) ## print the claims matrix and write it into README.md
	$(BIN)/resynth matrix

report: $(STAMP) ## write all claims, tables and figures as one page, report/index.html
	$(BIN)/resynth report

check: $(STAMP) ## check profiles, claims, notebooks and fix-points, running no model
	$(BIN)/resynth check
