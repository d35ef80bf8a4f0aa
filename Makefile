# The two commands are `make demo` and `make test`. Everything prepares what it needs first.
# PYTHON=python3.12 picks the interpreter; ARGS="-k ledger" is passed to pytest.

SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
PYTHON ?= python3
export PYTHON
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test docker check lint format types bench conformance lock clean prepare

help: ## what there is
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

demo: prepare ## the main job on real input: two toolpacks, an MCP client, an env client, the ledger
	@$(BIN)/sandgate demo

test: prepare ## all tests
	@$(BIN)/pytest $(ARGS)

docker: prepare ## the tests of the drivers docker and gvisor, on an engine that is started for them
	@export DOCKER_HOST=$$(scripts/engine start) && [ -n "$$DOCKER_HOST" ]; trap 'scripts/engine stop' EXIT; \
		$(BIN)/pytest tests/sandbox tests/runtime/test_egress.py -k 'docker or gvisor' $(ARGS)

check: lint types ## style and types

lint: prepare ## ruff: style, and that nothing is left unformatted
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

format: prepare ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

types: prepare ## pyright, strict
	@$(BIN)/pyright

bench: prepare ## tools/call through the gateway against its peers, in one run
	@$(BIN)/python -m benchmarks.mcp $(ARGS)

conformance: prepare ## the official MCP conformance suite, directly and through the gateway
	@$(BIN)/python -m tests.conformance.suite

lock: prepare ## pin what is in .venv now
	@scripts/lock

prepare: ## .venv, bubblewrap, git, node
	@scripts/prepare

clean: ## remove what was made here
	@rm -rf .venv dist build .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -prune -exec rm -rf {} +
