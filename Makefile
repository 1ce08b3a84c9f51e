VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
WORKERS ?= 2
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check bench clean

help:  ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

$(VENV)/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) -e '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) -e '.[dev]'
	touch $@

demo: $(VENV)/.demo  ## fine-tune a small pretrained model beside the same one from scratch, offline, in minutes
	$(BIN)/python -m tl_lightning +experiment=quickstart

test: $(VENV)/.dev  ## all quick tests
	$(BIN)/python -m pytest -n $(WORKERS)

test-slow: $(VENV)/.dev  ## kills, several processes, fuzzing, a wheel in a fresh environment
	$(BIN)/python -m pytest -m slow -n $(WORKERS)

check: $(VENV)/.dev  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev  ## speed and memory beside bare loops, the Trainer and timm (DATA=sentences.tsv IMAGES=folder)
	$(BIN)/python experiments/speed/step.py
	$(BIN)/python experiments/speed/step_images.py
	$(BIN)/python experiments/speed/text.py $(if $(DATA),--data $(DATA))
	$(BIN)/python experiments/speed/images.py $(if $(IMAGES),--images $(IMAGES))
	$(BIN)/python experiments/speed/tables.py

clean:  ## remove the environment and what tools left
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
