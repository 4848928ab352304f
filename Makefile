# Two commands on a fresh machine: `make demo` and `make test`. PYTHON is any Python from 3.11 on; for a second one give
# a VENV of its own, as in `make test PYTHON=python3.13 VENV=.venv-3.13`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The versions that pip may take: those of the lock, or with LOCK= the newest that pyproject.toml allows.
LOCK ?= --constraint requirements.lock
PIP := $(BIN)/python -m pip install --quiet $(LOCK)
# OLDEST=1 installs the oldest versions that pyproject.toml allows, without the tools of `make lint`.
# They are compiled first: Ray gives each process of its dashboard only 30 s to import what it needs.
OLDEST ?=
# Files of tests run side by side in this many processes, those that start Ray first. Each takes up to 4 GB of memory.
PYTEST_WORKERS ?= 2
SIDE_BY_SIDE := -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder
FAILED := --last-failed --last-failed-no-failures none

.PHONY: demo test test-fast test-some test-all test-most test-alone test-nightly test-browser test-install test-cluster bench screenshots lint dist tagged docs lock clean

demo: $(VENV)/installed
	$(BIN)/glowctl demo

# What to run after a change: a few minutes, a training, an ablation and evaluations on a real Ray among them.
test: $(VENV)/installed
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) \
		-m 'not slow and not nightly and not timing and not root and not browser and not install' $(PYTEST_ARGS)

# The quick half of it, without Ray: what .ci/run runs with the newest versions, beside the demo.
test-fast: $(VENV)/installed
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) \
		-m 'not ray and not slow and not nightly and not timing and not root and not browser and not install' $(PYTEST_ARGS)

# What shows that the versions of this environment work together: trainings, an ablation, kills and resumes.
test-some: $(VENV)/installed
	$(BIN)/python -m pytest $(SOME) $(PYTEST_ARGS)

SOME := tests/jobs/training/test_train.py::test_killed_glowctl_leaves_nothing_and_resumes_bit_for_bit \
	tests/jobs/training/test_train.py::test_events_are_json_lines_from_start_to_end \
	tests/jobs/ablation/test_ablate.py::test_a_killed_ablation_continues_each_trial_from_its_checkpoint \
	tests/jobs/ray_runtime/test_embedded.py tests/jobs/ray_runtime/test_connection.py

# Every test but the nightly ones. A test whose program, right or data this machine lacks is skipped and says why.
# What asserts wall time or looks at the demo comes last, with nothing beside it. What fails is run once more, alone, and
# its output stands above: a busy machine can starve real processes, and a fault is there the second time.
test-all: test-most test-alone

MOST := -m 'not nightly and not timing and not browser'
ALONE := -m '(timing or browser) and not nightly'

test-most: $(VENV)/installed
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(MOST) $(PYTEST_ARGS) || $(BIN)/python -m pytest $(FAILED) $(MOST)

test-alone: $(VENV)/installed
	$(BIN)/python -m pytest $(ALONE) $(PYTEST_ARGS) || $(BIN)/python -m pytest $(FAILED) $(ALONE)

# Long proofs, and more cases of what `make test-all` has one of.
test-nightly: $(VENV)/installed
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m nightly $(PYTEST_ARGS)

# Real hosts, in network namespaces: needs root, sshd and rsync, and says which of them is missing.
test-cluster: $(VENV)/installed
	$(BIN)/python -m pytest -m root $(PYTEST_ARGS)

# What a browser shows of a demo's record; needs Chromium.
test-browser: $(VENV)/installed
	$(BIN)/python -m pytest -m browser tests/browser $(PYTEST_ARGS)

# A trained model in an environment of its own, with nothing but what it says that it needs.
test-install: $(VENV)/installed
	$(BIN)/python -m pytest -m install $(PYTEST_ARGS)

# How fast it is, against normflows, which this installs. Nothing else should run while it lasts.
# `make bench BENCH='speed memory'` takes some scripts.
BENCH ?= speed growth memory workers precision ood start_up
bench: $(VENV)/installed
	$(PIP) --editable '.[bench]'
	for script in $(BENCH); do echo; $(BIN)/python -m benchmarks.$$script || exit 1; done

# The pictures of the MLflow UI in the README.
screenshots: $(VENV)/installed
	$(BIN)/python -m tests.browser.screenshots

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell $$(git ls-files 2>/dev/null || echo .)
	$(BIN)/lint-imports

$(VENV)/installed: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "glowctl needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
ifeq ($(OLDEST),)
	$(PIP) --editable '.[dev]'
else
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --no-config --compile-bytecode --python $(BIN)/python --resolution lowest-direct \
	  --editable . \
	  'sqlalchemy>=2.0,<2.1' 'pytest>=8.3' 'pytest-timeout>=2.3' 'pytest-xdist>=3.6'
endif
	touch $@

# The wheel and the source archive in dist/, byte for byte the same wherever they are built.
dist: $(VENV)/installed
	$(BIN)/python -m hatchling build --clean

# Whether the tag that GitHub builds is that of the version in pyproject.toml.
tagged:
	test "$$GITHUB_REF_NAME" = "v$$($(PYTHON) -c \
	  'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])')"

# The site, in dist/site. A broken link is an error.
docs: $(VENV)/installed
	$(PIP) --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

# The newest versions that pyproject.toml lets in, for all Pythons at once: run the tests with them before they are kept.
lock: $(VENV)/installed
	$(BIN)/python -m pip install --quiet uv
	printf 'torch\ntorchvision\n' >$(VENV)/not-locked
	printf '# %s\n' \
	  'The versions that are tested, on Python 3.11 to 3.13. `make` installs by them; so does' \
	  '`pip install --constraint requirements.lock .`. `make lock` writes this file.' \
	  'torch and torchvision are left out, with what they bring: which build (for CPUs, for CUDA) is right' \
	  'depends on the machine. pyproject.toml says which versions of them work.' >requirements.lock
	$(BIN)/uv pip compile --quiet --no-config --upgrade --universal --python-version 3.11 --all-extras \
	  --excludes $(VENV)/not-locked --no-header --no-annotate pyproject.toml >>requirements.lock

clean:
	rm -rf .venv* dist .pytest_cache .mypy_cache .ruff_cache
