# The commands of the README, and what they need. Each sets itself up from a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= ../shared/data
EXTRAS ?= dev
DEMO := demo-data

.PHONY: demo serve test lint mutants mini clean

demo: $(VENV)/.demo
	@$(BIN)/python demo/gather.py $(DEMO)
	@BIN=$(BIN) DEMO=$(DEMO) sh demo/run.sh

# The demo's index in a browser: make serve SERVE="--port 0 --open"
serve: $(VENV)/.demo
	@$(BIN)/python demo/gather.py $(DEMO)
	@BIN=$(BIN) DEMO=$(DEMO) sh demo/serve.sh $(SERVE)

test: $(VENV)/.$(EXTRAS) lint
	PYTHONDONTWRITEBYTECODE= HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n auto --dist worksteal

lint: $(VENV)/.$(EXTRAS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Small faults, planted one by one in a random sample of places: which do the tests not notice?
mutants: $(VENV)/.mutants
	$(BIN)/python benchmarks/mutants.py $(MUTANTS)

# The built-in model, from the frozen towers and the photos, texts and sounds in $(DATA).
mini: $(VENV)/.train
	$(BIN)/python -m mmsearch.training build --data $(DATA)/flickr8k --coco $(DATA)/coco \
	  --labelled $(DATA)/labelled --sounds $(DATA)/esc10 --animals $(DATA)/animals \
	  --stamps $(DATA)/tuxpaint --parallel $(DATA)/parallel --names $(DATA)/imagenet_names \
	  --out mmsearch/models/mini

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mmsearch needs Python 3.11 or newer; say which: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A marker a set of extras; pyproject.toml is what they depend on.
$(VENV)/.%: pyproject.toml | $(VENV)/bin/python
	@echo "Installing mmsearch[$*] into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
