# Everything a newcomer needs; each target sets up what it uses.
PYTHON ?= python3
DEMO := .venv
TEST := .venv-test

# One file for each room: what breaks most, soonest.
QUICK := $(addprefix tests/,test_house.py cli/test_complete.py config/test_build.py core/test_golden.py \
	core/test_sequence.py data/test_streams.py library/test_library.py methods/test_base.py methods/test_kd.py \
	models/test_models.py report/test_report.py run/test_resume.py store/test_files.py train/test_loop.py)

.PHONY: help demo test quick clean

help:  ## Show this help
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/'

demo: $(DEMO)/installed  ## Install into .venv and distil a digit classifier, in about a minute
	$(DEMO)/bin/kdrun train

test: $(TEST)/installed  ## Install with the test extra into .venv-test, then lint, check types and run the whole suite
	$(TEST)/bin/ruff check
	$(TEST)/bin/ruff format --check
	$(TEST)/bin/mypy
	$(TEST)/bin/python -m pytest -n 2

quick: $(TEST)/installed  ## Lint, check types, and run one file of contracts per room, in under two minutes
	$(TEST)/bin/ruff check
	$(TEST)/bin/ruff format --check
	$(TEST)/bin/mypy
	$(TEST)/bin/python -m pytest -n 2 $(QUICK)

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
