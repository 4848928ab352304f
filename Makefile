# Two commands on a fresh machine: `make demo` and `make test`. PYTHON is any Python from 3.11 on.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-cluster lint clean

demo: .venv/installed
	$(BIN)/glowctl demo

test: .venv/installed
	$(BIN)/python -m pytest -m 'not root' $(PYTEST_ARGS)

# Real hosts, in network namespaces: needs root, sshd and rsync, and says which of them is missing.
test-cluster: .venv/installed
	$(BIN)/python -m pytest -m root $(PYTEST_ARGS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "glowctl needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
