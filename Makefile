# Everything a developer types. A fresh clone needs Python 3.10 or newer with venv, and make; nothing else.
#
#   make demo         the main job: two solves against their exact solutions, then the ODENet on handwritten digits
#   make test         the test suite
#   make check        the longer checks (tests/check, what is marked slow, and all others with types and shapes checked as they
#                     come), the wheel in an empty environment among them
#   make wheel-check  only that one
#   make bench        the benchmarks, side by side with the peers; writes benchmarks/results/ and pictures
#   make docs         the documentation into site/, strictly
#   make lint         ruff and mypy;  make format  applies what ruff can
#   make install      everything for development into .venv
#   make clean        removes what the targets above made, .venv excepted
#
# Variables: PYTHON (which interpreter makes .venv), VENV, WORKERS (test processes), PIP_ARGS (passed on to pip),
# ARGS (passed on to the demo, pytest or the benchmarks).

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= auto
PIP_ARGS ?=
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS)
# One thread per process: the same rounding on every machine, and no processes in each other's way.
ONE_THREAD := PYTHONHASHSEED=0 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MPLBACKEND=agg

# The tests that `make test` runs a second time, with all types and shapes checked as they come; `make check` does so with all.
TYPECHECKED := tests/test_public_api.py tests/test_dense.py tests/test_saving.py tests/per_sample/test_rows.py \
	tests/linalg tests/gradients/test_adjoint.py

.PHONY: demo test check wheel-check bench docs lint format install clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed-demo
	$(BIN)/python examples/demo.py $(ARGS)

test: $(VENV)/.installed-test
	$(if $(ARGS),,$(ONE_THREAD) TYPECHECK=1 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 -m "not slow" $(TYPECHECKED))
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 -m "not slow" $(ARGS)

check: $(VENV)/.installed-check
	$(ONE_THREAD) $(BIN)/python -m pytest tests/check $(ARGS)
	$(ONE_THREAD) TYPECHECK=1 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 -m "not slow" $(ARGS)
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 -m slow $(ARGS)

wheel-check: $(VENV)/.installed-check
	$(ONE_THREAD) $(BIN)/python -m pytest tests/check/test_wheel.py $(ARGS)

bench: $(VENV)/.installed-bench
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m benchmarks.work_precision
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m benchmarks $(ARGS)

# Not --quiet: it silences warnings before --strict can count them.
docs: $(VENV)/.installed-docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/.installed-dev

# One stamp for each set of extras in pyproject.toml, so that the demo does not wait for what only the docs need.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing torchivp[$*] into $(VENV) (the first time: PyTorch, some minutes) ..."
	$(PIP) -e ".[$*]"
	@touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "torchivp needs Python 3.10 or newer. Name one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=22.3"

clean:
	rm -rf build dist site demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
