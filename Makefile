# make sweep   set up, then run the main job (PARAMS=params/....yaml for another)
# make test    set up, then every check and test
# make lab     set up, then JupyterLab
PARAMS ?= params/default.yaml
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The stamp holds the checkout's path: an environment that was made for another one is pointed here.
STAMP := $(VENV)/.ready-$(shell echo "$(CURDIR)" | cksum | cut -d' ' -f1)

.PHONY: sweep test lab format clean

sweep: $(STAMP)
	@$(BIN)/python -m pplib.sweep $(PARAMS)

test: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check -q .
	@$(BIN)/mypy
	@$(BIN)/nbstripout --verify notebooks/*.ipynb
	@$(BIN)/python -m pytest -m "not alone" -n auto --maxprocesses 4 --dist loadfile --max-worker-restart 0
	@$(BIN)/python -m pytest -m alone

lab: $(STAMP)
	@$(BIN)/jupyter lab --notebook-dir=.

format: $(STAMP)
	@$(BIN)/ruff check --fix -q .
	@$(BIN)/ruff format -q .
	@$(BIN)/nbstripout notebooks/*.ipynb

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("expected Python 3.11 or newer, got %d.%d: set PYTHON=python3.11" % sys.version_info[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (PyTorch is large: minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@rm -f $(VENV)/.ready-* && touch $@
