# `make demo` and `make test` do everything on a fresh machine, in a local virtual environment.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo
WORLD := demo-world
RAW := demo-raw

.PHONY: demo demo-raw docs docs-serve notebooks road test test-all lint clean help

help:
	@echo "make demo      set up, then a small world: 300 samples from raw files to shards, training, scores, a classified tree"
	@echo "make demo-raw  the same from raw files alone: records, scenes and rasters to shards, then training on them"
	@echo "make docs      set up, then this documentation as a site in site/; make docs-serve shows it while you write"
	@echo "make notebooks run the notebooks and keep what they print"
	@echo "make test      set up, then lint, types and tests"
	@echo "make test-all  the slow tests too"

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

.venv/docs-installed: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@

# From records, scenes and rasters to packed shards, compared with what was planted.
road: .venv/installed
	rm -rf $(RAW)
	$(BIN)/geotreeclip demo --raw --out $(RAW)/raw --samples 300
	$(BIN)/python data_prep/occurrences.py $(RAW)/raw/occurrences.zip --backbone $(RAW)/raw/taxonomy.csv --trees $(RAW)/raw/trees.csv --require-backbone --out $(RAW)/clean
	$(BIN)/python data_prep/sentinel2.py --occurrences $(RAW)/clean/occurrences.parquet --catalog $(RAW)/raw/stac/catalog.json --year nearest --out $(RAW)/imagery
	$(BIN)/python data_prep/environment.py --occurrences $(RAW)/clean/occurrences.parquet --rasters $(RAW)/raw/rasters --table $(RAW)/environment.parquet
	$(BIN)/python data_prep/pack.py --occurrences $(RAW)/clean/occurrences.parquet --imagery $(RAW)/imagery --environment $(RAW)/environment.parquet --out $(RAW)/packed
	$(BIN)/python -m geotreeclip.demo.raw.check $(RAW)/raw --packed $(RAW)/packed --refused $(RAW)/clean/refused.parquet

demo-raw: road
	$(BIN)/python data_prep/splits.py --data $(RAW)/packed --size-km 0 --folds 5 --name random
	$(BIN)/accelerate launch --num_processes 1 train/clip.py --config train/configs/demo.yaml --data $(RAW)/packed --split random --fold 0 --minutes 1 --out $(RAW)/run
	$(BIN)/python eval/zero_shot.py --model $(RAW)/run --data $(RAW)/packed --split random --fold 0 --out $(RAW)/run/report.json

demo: road
	$(BIN)/geotreeclip demo --out $(WORLD)
	$(BIN)/accelerate launch --num_processes 1 train/clip.py --config train/configs/demo.yaml --data $(WORLD) --out $(DEMO)
	$(BIN)/python eval/zero_shot.py --model $(DEMO) --data $(WORLD) --out $(DEMO)/report.json
	$(BIN)/python -m geotreeclip.cache $(DEMO)/model
	$(BIN)/python docs/examples/classify_demo.py --model $(DEMO)/model --data $(WORLD)

# Every warning is an error; nothing is fetched.
docs: .venv/docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

docs-serve: .venv/docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

notebooks: .venv/docs-installed
	$(BIN)/python docs/notebooks/run.py

test: lint
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: lint .venv/docs-installed
	$(BIN)/python -m pytest -n 2

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv site $(DEMO) $(WORLD) $(RAW)
