# Two commands are enough: `make demo` and `make test`. Both set everything up by themselves.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test check format lint types layers unit net proto clean
demo: $(READY)
	$(BIN)/thinwire demo $(ARGS)

test: check net

check: format lint types layers unit

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "thinwire needs Python 3.11 or newer; set PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing thinwire and its tested dependencies into $(VENV) (a minute or two)"
	@$(BIN)/pip install --quiet --upgrade pip setuptools wheel
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
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
	$(BIN)/pytest -q -m "not net" tests
net: $(READY)
	$(BIN)/pytest -q -m net tests

# Regenerates the wire messages; the result is committed, so users need no compiler for it.
proto: $(READY)
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. protocol/pb/thinwire.proto

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
