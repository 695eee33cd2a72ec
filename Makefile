# The table of contents: each target is one command. `make help` prints this list.

CONFIG ?= $(FLYWHEEL_CONFIG)
PYTHON ?= python3
BIN := .venv/bin
FLYWHEEL := $(BIN)/flywheel $(if $(CONFIG),--config $(CONFIG))

.PHONY: help setup demo serve retrain review loop test lint lock

help:    ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup:   ## make .venv and install the locked requirements for this machine
	@$(PYTHON) requirements/install.py

demo: setup ## watch the whole loop on the CPU; DATA=train.csv GOLD=test.csv take yours; LOOP=1: nobody steers
	@$(BIN)/flywheel --config $(or $(CONFIG),configs/demo.yaml) demo $(if $(DATA),--data $(DATA)) $(if $(GOLD),--gold $(GOLD)) $(if $(LABELS),--labels $(LABELS)) $(if $(LOOP),--loop)

serve: setup ## serve CONFIG, by default the one that fits this machine
	@$(FLYWHEEL) serve

retrain: setup ## train on the corrections and put the new version before the gate
	@$(FLYWHEEL) retrain $(ALIAS)

review: setup ## go through the answers that need eyes
	@$(FLYWHEEL) review $(ALIAS)

lint: setup ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

loop: setup ## watch, decide, retrain, roll out and back, again and again; EVERY=5m
	@$(FLYWHEEL) loop $(ALIAS) $(if $(EVERY),--every $(EVERY))

test: lint ## lint, then all tests, real models included
	@$(BIN)/python -m pytest

bench-gpu: ## train a 7B shape on this machine's GPU, beside plain SFTTrainer; under 8 minutes
	@$(BIN)/python -m benchmarks.train_gpu $(if $(JSON),--json $(JSON))

lock:    ## write the lock files anew (needs uv)
	@sh requirements/lock.sh
