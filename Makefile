# `make demo` and `make test` do everything on a fresh machine, in a local virtual environment.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo
WORLD := demo-world

.PHONY: demo test test-all lint clean help

help:
	@echo "make demo      set up, then a small world from packing to a classified tree (about 6 minutes on 2 cores)"
	@echo "make test      set up, then lint, types and tests"
	@echo "make test-all  the slow tests too"

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/geotreeclip demo --out $(WORLD)
	$(BIN)/accelerate launch --num_processes 1 train/clip.py --config train/configs/demo.yaml --data $(WORLD) --out $(DEMO)
	$(BIN)/python eval/zero_shot.py --model $(DEMO) --data $(WORLD) --out $(DEMO)/report.json
	$(BIN)/python -m geotreeclip.cache $(DEMO)/model
	$(BIN)/python docs/examples/classify_demo.py --model $(DEMO)/model --data $(WORLD)

test: lint
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: lint
	$(BIN)/python -m pytest -n 2

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv $(DEMO) $(WORLD)
