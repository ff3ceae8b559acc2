# make demo    set up, then the main job: a sweep on real images, in four to five minutes on two cores
# make test    set up, then the tests
# make setup   a virtual environment with pinned dependencies and quench in it
# make check   what the tests do not: lint and types
# make lock    resolve the dependencies anew, into constraints.txt

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.quench

.PHONY: demo test setup check lock

demo: setup
	$(BIN)/quench sweep experiments/demo.py

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 10) <= sys.version_info < (3, 14) else "quench needs Python 3.10 to 3.13; name one with: make $(MAKECMDGOALS) PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

lock:
	echo 'torch==2.13.0' | uv pip compile --universal --python-version 3.10 --extra dev --no-annotate --no-header --quiet --constraint - pyproject.toml | grep -vE '^(nvidia-[^m]|triton|cuda-)' > constraints.new
	(echo '# Exact versions for `make setup`; `make lock` writes this file. What torch itself pins (CUDA) is left to torch.'; cat constraints.new) > constraints.txt
	rm constraints.new
