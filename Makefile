# Two commands on a fresh machine with Python 3.11: `make demo` and `make test`.
# Each makes .venv when it is missing or the requirements changed; nothing outside this folder is touched.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint clean help

help:
	@echo "make demo   set up, run every script on built-in data, print one table"
	@echo "make test   set up, check the style, run the tests"
	@echo "make lint   set up, check the style only"
	@echo "make clean  remove .venv and outputs/demo"

demo: $(VENV)/runtime.stamp
	@echo "== every script with --demo (built-in data, no network)"
	@$(RUN) -m benchmarks.demo

# One thread a process: two test processes share the cores without getting in each other's way.
test: lint
	@echo "== tests"
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal

lint: $(VENV)/development.stamp
	@echo "== style"
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 is needed; install it or give make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' \
	  || { echo "$(PYTHON) is too old: Python 3.11 is needed; give make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "== setting up $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/runtime.stamp: requirements.txt | $(VENV)/bin/python
	@echo "== installing requirements.txt into $(VENV) (about 3.6 GB on disk; a few minutes)"
	@$(PIP) -r requirements.txt
	@touch $@

$(VENV)/development.stamp: requirements-dev.txt $(VENV)/runtime.stamp
	@echo "== installing requirements-dev.txt into $(VENV)"
	@$(PIP) -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) outputs/demo
