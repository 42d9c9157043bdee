# Everything here is a thin wrapper around `python -m ...`; CONTRIBUTING.md lists the same commands for Windows.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
# Tests at a time, beside mypy at their beginning. A file of tests stays together: its tests share what they compile.
JOBS ?= 2
PYTEST := $(PY) -m pytest -n $(JOBS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test check every quick golden lint types imports docs clean

help:  ## Show this list
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.base  ## Compile the built-in model for each target and draw beside PyTorch
	$(PY) -m bench.project.demo

test: lint imports  ## Lint, types, import rules and every test
	$(MAKE) --no-print-directory -j 2 types every

check: lint imports  ## The same without the slow tests: under three minutes
	$(MAKE) --no-print-directory -j 2 types quick

every: $(VENV)/.test
	$(PYTEST)

quick: $(VENV)/.test
	$(PYTEST) -m "not slow"

golden: $(VENV)/.test  ## Export the full-size public models and hold their graphs to tests/golden
	$(PY) -m bench.project.full_size.golden

lint: $(VENV)/.test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(VENV)/.test
	$(PY) -m mypy

imports: $(VENV)/.test
	$(VENV)/bin/lint-imports --no-logo

docs: $(VENV)/.test  ## Write docs/cli.md from the commands' own help
	$(PY) -m tests.docs.write_cli

clean:  ## Remove the virtual environment and everything that was built
	rm -rf $(VENV) build dist demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(PY):
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $@ $(VENV)/.base
