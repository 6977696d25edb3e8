# Two commands on a fresh machine: make demo, make test. Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FAST := -n 2 --dist loadfile -m "not slow and not inspector"
# Half of their time is waiting for downloads and for programs that use one core.
SLOW := -n 3 --dist loadfile -m "slow or inspector"
export AGENTD_CACHE ?= $(CURDIR)/build/cache

.PHONY: demo test fast check format bench chaos conformance clean help

help:           ## list the commands
	@grep -hE '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "agentd needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 demo" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "Python's venv module is missing. Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(VENV)/.ready  ## from a small open model to a served one of our own (about 20 minutes on 2 cores)
	$(BIN)/agentd demo

test: $(VENV)/.ready check  ## everything a fresh machine must pass, a shortened real journey included
	$(BIN)/pytest $(FAST)
	$(BIN)/pytest $(SLOW)

fast: $(VENV)/.ready  ## the tests that need no recipe environment (about seven minutes on 2 cores)
	$(BIN)/pytest $(FAST)

check: $(VENV)/.ready  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright

format: $(VENV)/.ready  ## put the code in shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.ready  ## figures, each beside a named baseline in the same run
	$(BIN)/agentd bench startup
	$(BIN)/agentd bench mcp
	$(BIN)/agentd bench eval
	$(BIN)/agentd bench capture
	$(BIN)/agentd bench finetune
	$(BIN)/agentd bench jobs
	$(BIN)/agentd bench leaks

chaos: $(VENV)/.ready  ## kill the daemon and its shims a few thousand times, and count (ends by itself, within 40 minutes)
	$(BIN)/python tests/crash/chaos.py

conformance: $(VENV)/.ready  ## the official MCP conformance suite, in both eras and with tasks (needs npm; a minute)
	@$(BIN)/python tests/conformance/run.py

clean:          ## stop what runs from here, and remove everything that was built
	@if [ -x $(BIN)/agentd ]; then AGENTD_STATE=$(CURDIR)/build/demo $(BIN)/agentd stop --jobs 2>/dev/null || true; fi
	rm -rf build dist $(VENV) .pytest_cache .ruff_cache .hypothesis
