# Two commands on a fresh machine with Python 3.11: `make demo` and `make test`.
# Each makes .venv when it is missing or the requirements changed; nothing outside this folder is touched.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check

FAULTS ?= 30

.PHONY: demo test faults upgrade-check lint clean help

help:
	@echo "make demo   set up, run every script on built-in data, print one table"
	@echo "make test   set up, check the style, run the tests"
	@echo "make lint   set up, check the style only"
	@echo "make faults          signals, full disks, damaged files, failing hubs; hours (FAULTS=3: a tenth of it)"
	@echo "make upgrade-check   the tests with the newest releases of the libraries, in .venv-upgrade"
	@echo "make clean  remove .venv, .venv-upgrade and outputs/demo"

demo: $(VENV)/runtime.stamp
	@echo "== every script with --demo (built-in data, no network)"
	@$(RUN) -m benchmarks.demo

# One thread a process: two test processes share the cores without getting in each other's way.
test: lint
	@echo "== tests"
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal

faults: $(VENV)/development.stamp
	@echo "== faults, $(FAULTS) signals for each script"
	OMP_NUM_THREADS=1 FAULTS=$(FAULTS) $(RUN) -m pytest tests/faults -m "" -n 2 --dist worksteal
	OMP_NUM_THREADS=1 $(RUN) -m pytest --ignore tests/faults -m slow -n 2 --dist worksteal

upgrade-check: $(VENV)/bin/python
	@echo "== the newest releases in .venv-upgrade (about 3.6 GB on disk), and the tests"
	OMP_NUM_THREADS=1 $(RUN) -m tests.upgrade_check

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
	rm -rf $(VENV) .venv-upgrade outputs/demo
