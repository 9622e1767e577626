# karui's chores. Each does its own set-up, so that any of them works on a fresh clone.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
JOBS   ?= 2

.PHONY: help setup demo emulators test test-all check format bench clean

help:            ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## a virtual environment in .venv with everything pinned

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: karui needs Python 3.11 or newer, found $$($(PYTHON) --version 2>&1); try: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "error: this Python can't make virtual environments; try: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (a few minutes, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

demo: $(READY)   ## compress the shipped LeNet-5 under a budget; results in runs/demo
	$(BIN)/karui demo -o runs/demo

# What some tests need besides Python: processors that aren't here, and an SSH server (not where its service would start with it). Where this
# isn't root's Debian, or it fails, those tests are skipped and say what to install.
LACKING = $(shell command -v qemu-aarch64 >/dev/null || echo qemu-user) \
          $(shell command -v qemu-system-arm >/dev/null || echo qemu-system-arm) \
          $(shell test -x /usr/sbin/sshd -o -d /run/systemd/system || echo openssh-server)
emulators:
	@test -z "$(strip $(LACKING))" || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || \
	  apt-get install -qq -y --no-install-recommends $(LACKING) >/dev/null 2>&1 || \
	  { apt-get update -qq && apt-get install -qq -y --no-install-recommends $(LACKING); } >/dev/null 2>&1 || true

test: $(READY) emulators  ## the tests, without the long proofs
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow"

test-all: $(READY) emulators  ## all tests
	$(BIN)/python -m pytest -n $(JOBS)

check: $(READY)  ## lint, format, strict types, the order of the rooms, the length of the files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/house.py

format: $(READY) ## let ruff lay the code out
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## the benchmarks that measure again what the tables say
	$(BIN)/python -m benchmarks.demo --quick --json runs/bench-demo.json
	$(BIN)/python -m benchmarks.latency --quick --json runs/bench-latency.json
	$(BIN)/python -m benchmarks.prune --quick --json runs/bench-prune.json
	$(BIN)/python -m benchmarks.quantize --quick --json runs/bench-quantize.json
	$(BIN)/python -m benchmarks.distill --quick --json runs/bench-distill.json
	$(BIN)/python -m benchmarks.doors --quick --json runs/bench-doors.json

clean:           ## what the chores left behind (runs/ stays)
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
