# Two commands are enough: `make demo` and `make test`. Both set everything up by themselves.
#   PYTHON=python3.12      another interpreter
#   PIP_ARGS="--index-url ... --extra-index-url ..."   for instance for torch's CPU builds
PYTHON ?= python3
PIP_ARGS ?=
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test check format lint types layers unit net proto clean
demo: $(READY)
	$(BIN)/thinwire demo $(ARGS)

test: check net

check: format lint types layers unit

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(not (3, 11) <= v < (3, 14) and "thinwire needs Python 3.11 to 3.13; try: make PYTHON=python3.13")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { \
	    echo "No venv module here (Debian: apt install python3-venv); trying virtualenv"; \
	    $(PYTHON) -m pip install --quiet --user virtualenv && $(PYTHON) -m virtualenv --quiet $(VENV); }
	@echo "Installing thinwire and its tested dependencies into $(VENV) (a minute, and torch's download)"
	@$(BIN)/pip install --quiet $(PIP_ARGS) --constraint constraints.txt pip setuptools wheel
	@$(BIN)/pip install --quiet $(PIP_ARGS) --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

format: $(READY)
	$(BIN)/ruff format --check .
lint: $(READY)
	$(BIN)/ruff check .
types: $(READY)
	$(BIN)/mypy
layers: $(READY)
	$(BIN)/lint-imports
unit: $(READY)
	PYTHONHASHSEED=0 $(BIN)/pytest -q -n auto --dist worksteal -m "not net" tests
net: $(READY)
	$(BIN)/pytest -q -n 2 --dist worksteal -m "net and not slow" tests
	$(BIN)/pytest -q -n 2 --dist loadfile -m "net and slow" tests

# Regenerates the wire messages; the result is committed, so users need no compiler for it.
proto: $(READY)
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. protocol/pb/thinwire.proto

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
