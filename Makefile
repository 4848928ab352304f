# Two commands on a fresh machine: `make demo` and `make test`. PYTHON is any Python from 3.11 on.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-browser test-install test-cluster bench screenshots lint clean

demo: .venv/installed
	$(BIN)/glowctl demo

test: .venv/installed
	$(BIN)/python -m pytest -m 'not root and not browser and not install' $(PYTEST_ARGS)

# Real hosts, in network namespaces: needs root, sshd and rsync, and says which of them is missing.
test-cluster: .venv/installed
	$(BIN)/python -m pytest -m root $(PYTEST_ARGS)

# What a browser shows of a demo's record; needs Chromium.
test-browser: .venv/installed
	$(BIN)/python -m pytest -m browser tests/browser $(PYTEST_ARGS)

# A trained model in an environment of its own, with nothing but what it says that it needs.
test-install: .venv/installed
	$(BIN)/python -m pytest -m install $(PYTEST_ARGS)

# How fast it is, against normflows, which this installs: ten minutes, in which nothing else should run. The figures go
# into docs/performance.json and docs/performance.md. BENCH_ARGS='--quick' writes neither.
bench: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m benchmarks $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.document

# The pictures of the MLflow UI in the README.
screenshots: .venv/installed
	$(BIN)/python -m tests.browser.screenshots

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "glowctl needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
