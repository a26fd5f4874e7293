# Each target makes the environment it needs in $(VENV), once. To choose otherwise:
#   make demo PYTHON=python3.12            another interpreter
#   make demo PIP_FLAGS="-i ADDRESS"       where pip finds PyTorch (CONTRIBUTING.md: the small one)
#   make demo TORCH="torch torchvision"    other versions of it
VENV ?= .venv
TORCH ?= torch==2.13.0 torchvision==0.28.0
PIP_FLAGS ?=
ARGS ?=
# Tests side by side, a file in one process, each process on one thread (JOBS=0: all in this one).
JOBS ?= 2
PYTEST = $(if $(filter 0,$(JOBS)),,OMP_NUM_THREADS=1) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

# The newest Python that starts, is new enough, and can make an environment.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$p && break; done)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

# Checked against libraries that want newer versions than the lowest.
PEERS := tests/metrics/test_peers.py tests/metrics/test_metrics.py tests/calibrators
LOWEST := $(VENV)-lowest

.PHONY: help demo test check format docs lowest benchmark clean
.DELETE_ON_ERROR:

help:
	@echo "make demo       train and compare on the embedded digits: a table and an HTML report"
	@echo "make test       run the tests"
	@echo "make check      what CI runs: lint, formatting, types, docs, tests"
	@echo "make format     let ruff fix what it can"
	@echo "make docs       write docs/reference.md anew from the code"
	@echo "make lowest     run the tests with the lowest versions that pyproject.toml allows"
	@echo "make benchmark  time CIFAR-10 against a plain notebook loop (needs LEVELHEAD_DATA);"
	@echo "                benchmarks/README.md names the others"
	@echo "make clean      remove the environment and caches (runs/ stays)"

# `compare` resumes a stopped study, and only reports a finished one.
demo: $(VENV)/installed
	$(BIN)/levelhead compare digits --smoothing 0 0.1 --seeds 3 --out runs/demo

test: $(VENV)/installed-test
	$(PYTEST) $(ARGS)

check: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/build.py --check
	$(PYTEST) $(ARGS)

format: $(VENV)/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed
	$(BIN)/python docs/build.py

lowest: $(LOWEST)/installed
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n $(JOBS) --dist loadfile \
		$(PEERS:%=--ignore %) -W ignore::DeprecationWarning $(ARGS)

benchmark: $(VENV)/installed
	$(BIN)/python benchmarks/cifar10.py $(ARGS)

clean:
	rm -rf $(VENV) $(LOWEST) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find levelhead tests docs examples benchmarks -name __pycache__ -prune -exec rm -rf {} +

# PyTorch goes first and pinned: a bare requirement would take whatever build is newest, which for
# Linux brings gigabytes of CUDA libraries.
$(VENV)/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "levelhead needs Python 3.11 or newer, with venv (Debian and" \
		"Ubuntu: the package python3-venv). Install it, or name it: make PYTHON=/path/to/python"; \
		exit 1; }
	@echo "Setting up $(VENV) with $(PYTHON): once, a few minutes."
	$(PYTHON) -m venv $(VENV)
	$(PIP) install $(PIP_FLAGS) $(TORCH)
	$(PIP) install -e .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) install -e '.[test]'
	@touch $@

# PyTorch as everywhere; all else as low as pyproject.toml says.
$(LOWEST)/installed: pyproject.toml
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install $(PIP_FLAGS) $(TORCH)
	sed -n '/^dependencies/,/^]/s/^    "\([a-z0-9-]*\)>=\([0-9.]*\)",$$/\1==\2/p' pyproject.toml \
		| grep -v '^torch' > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install -e '.[lite]' pytest pytest-xdist hypothesis -c $(LOWEST)/lowest.txt
	@touch $@
