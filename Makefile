# Everything a newcomer needs; each target sets up what it uses.
PYTHON ?= python3
DEMO := .venv
TEST := .venv-test

.PHONY: help demo test check clean

help:  ## Show this help
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/'

demo: $(DEMO)/installed  ## Install into .venv and distil a digit classifier, in about a minute
	$(DEMO)/bin/kdrun train

test: $(TEST)/installed  ## Install with the test extra into .venv-test, then lint, check types and run the whole suite
	$(TEST)/bin/ruff check
	$(TEST)/bin/ruff format --check
	$(TEST)/bin/mypy
	$(TEST)/bin/python -m pytest -n 2

$(DEMO)/installed: pyproject.toml
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/pip install --quiet --disable-pip-version-check -e .
	touch $@

$(TEST)/installed: pyproject.toml
	$(PYTHON) -m venv $(TEST)
	$(TEST)/bin/pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

clean:  ## Remove both environments; outputs/ and data/ stay
	rm -rf $(DEMO) $(TEST)
