# make sweep   set up, then run the main job (PARAMS=params/....yaml for another)
# make test    set up, then every check and test
# make test-quick  set up, then linters and the tests that need no worker, no kernel and no device
# make lab     set up, then JupyterLab, at an index of the notebooks
# make lock    renew the lock files: the newest of all packages, and the PyTorch that is installed here
PARAMS ?= params/default.yaml
PYTHON ?= python3
# What is installed, with hashes; LOCK= (empty) installs the newest that pyproject.toml allows, or your own build of PyTorch.
LOCK ?= locks/$(if $(shell $(PYTHON) pplib/testbed/provision/torch_builds.py),arm64-cpu,any).txt
VENV ?= .venv
BIN := $(VENV)/bin
# The stamp holds the checkout's path: an environment that was made for another one is pointed here.
STAMP := $(VENV)/.ready-$(shell echo "$(CURDIR)" | cksum | cut -d' ' -f1)

.PHONY: sweep test test-quick lint lab format lock clean

sweep: $(STAMP)
	@$(BIN)/python -m pplib sweep $(PARAMS)

# A test that fails on a busy machine is run once more, with nothing beside it: what fails again has failed.
AGAIN = { [ $$? -eq 1 ] && echo "failed once, run again by itself:" && $(BIN)/python -m pytest --last-failed --last-failed-no-failures none -x; }

SPREAD = --dist loadfile --no-loadscope-reorder --max-worker-restart 0 --durations 10
# Only files with such tests are collected: all of them take ten seconds.
ALONE = $(shell grep -rlF 'pytest.mark.alone' tests --include='test_*.py')
# Compiled files are kept: the tests start a hundred processes.
test: export PYTHONDONTWRITEBYTECODE =
test: lint
# Twice as many as two cores take: half of the time tests wait, those that measure links nearly all of it.
	@$(BIN)/python -m pytest -m "not alone" -n 4 $(SPREAD) || $(AGAIN)
	@$(BIN)/python -m pytest -m alone -n 2 $(SPREAD) $(ALONE) || $(AGAIN)

QUICK = tests/analysis tests/view tests/vocabulary tests/test_project.py tests/test_command.py pplib/analysis pplib/view
test-quick: lint
	@$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile $(QUICK)

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check -q .
	@$(BIN)/mypy
	@$(BIN)/nbstripout --verify notebooks/*.ipynb

lab: $(STAMP)
	@$(BIN)/python -m pplib lab

format: $(STAMP)
	@$(BIN)/ruff check --fix -q .
	@$(BIN)/ruff format -q .
	@$(BIN)/nbstripout notebooks/*.ipynb

UV = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
lock: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/python -c 'import torch, torchvision as v; [print(f"{m.__name__}=={m.__version__.partition(chr(43))[0]}") for m in (torch, v)]' > $(VENV)/any.txt
	@$(BIN)/python -c 'from pplib.testbed.provision.torch_builds import ARM64_CPU; print(*ARM64_CPU.constraints, sep="\n")' > $(VENV)/arm64-cpu.txt
	@for name in any arm64-cpu; do \
	  $(UV) --extra dev pyproject.toml -c $(VENV)/$$name.txt -o locks/$$name.txt && \
	  $(UV) requirements-pi.txt -c $(VENV)/$$name.txt -o locks/requirements-pi-$$name.txt || exit 1; done
	@sed -n '/==/s/ *\\$$//p' locks/any.txt > $(VENV)/known.txt
	@for name in $(filter-out pi,$(patsubst requirements-%.txt,%,$(wildcard requirements-*.txt))); do \
	  $(UV) requirements-$$name.txt -c $(VENV)/known.txt -o locks/requirements-$$name-any.txt || exit 1; done

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

$(STAMP): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("expected Python 3.11 or newer, got %d.%d: set PYTHON=python3.11" % sys.version_info[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (PyTorch is large: minutes the first time)"
ifneq ($(LOCK),)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(LOCK)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
else
	@$(PYTHON) pplib/testbed/provision/torch_builds.py > $(VENV)/constraints.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt -e '.[dev]'
endif
	@rm -f $(VENV)/.ready-* && touch $@
