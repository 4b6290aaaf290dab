# Every target installs what it needs into .venv and does so once; the lock files under requirements/ carry hashes.
#
#   make demo     the main job, step by step, on this machine        make check    lint, format, types, import contracts
#   make test     every test                                         make up       everything on loopback, until Ctrl-C
#   make bench    measure authorize, call, audit, ...                make lock     resolve requirements/*.in anew
#
# ARGS passes words on:  make demo ARGS=--json,  make test ARGS='tests/unit/ucan -k replay',  make bench BENCH=verify
# `make differential` has Go's implementation of the log's formats check ours, and ours check Go's.

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
ARGS ?=
# One test may not take longer than this, seconds; the suite as a whole is bounded by whoever runs it.
TEST_TIMEOUT_SECONDS ?= 300

BIN := .venv/bin
UV := $(BIN)/uv
INSTALL := $(UV) pip install --quiet --python $(BIN)/python
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
# A member is a folder with a pyproject.toml under shared/ or services/; its package is the folder in it.
MEMBERS := $(patsubst %/pyproject.toml,%,$(wildcard shared/*/pyproject.toml services/*/pyproject.toml))
PACKAGES := $(sort $(foreach member,$(MEMBERS),$(notdir $(patsubst %/__init__.py,%,$(wildcard $(member)/*/__init__.py)))))

.PHONY: help setup demo strace openssh chromium provider test interop check up bench differential lock clean

help:
	@sed -n '3,5s/^# *//p' Makefile

setup: .venv/.run

# The stamps are the memory of an installation: a second call has nothing to do.
.venv/.bootstrap: requirements/bootstrap.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'nomos: error: python 3.11 or newer is needed' >&2; \
	  echo 'nomos: hint: name another interpreter: make PYTHON=python3.11 $(MAKECMDGOALS)' >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@touch $@

.venv/.run: .venv/.bootstrap requirements/run.txt $(addsuffix /pyproject.toml,$(MEMBERS))
	$(INSTALL) --require-hashes -r requirements/run.txt
	$(INSTALL) --no-deps --no-build-isolation $(addprefix -e ./,$(MEMBERS))
	@touch $@

.venv/.test: .venv/.run requirements/test.txt
	$(INSTALL) --require-hashes -r requirements/test.txt
	@touch $@

demo: .venv/.run
	@$(BIN)/nomos demo $(ARGS)

up: .venv/.run
	@$(BIN)/nomos up $(ARGS)

# What is measured, and with which sizes unless ARGS says others: together a few minutes.
BENCH ?= authorize call stream audit verify policy sanitize
BENCH_authorize := --seconds 3
BENCH_call := --seconds 3
BENCH_stream := --seconds 3 --in-flight 1,8
BENCH_audit := --records 20000
BENCH_verify := --records 10000,100000
BENCH_sanitize := --seconds 1

bench: .venv/.run
	@set -e; $(foreach name,$(BENCH),$(BIN)/nomos bench $(name) $(BENCH_$(name)) $(ARGS);)

# Not part of `make test`: it needs Go. Installs Debian's where there is an apt-get, and fails where there is no Go after that.
differential: .venv/.test
	@command -v go >/dev/null && test -d /usr/share/gocode/src/golang.org/x/mod || ! command -v apt-get >/dev/null || \
		apt-get install -y golang-go golang-golang-x-mod-dev
	$(BIN)/python -m pytest --timeout=$(TEST_TIMEOUT_SECONDS) tests/differential/go_sumdb.py $(ARGS)

# All tests run in three parts side by side: some compute, others mostly wait for their servers.
test: .venv/.test
ifeq ($(strip $(ARGS)),)
	@tests/parts $(BIN)/python -m pytest --timeout=$(TEST_TIMEOUT_SECONDS)
else
	$(BIN)/python -m pytest --timeout=$(TEST_TIMEOUT_SECONDS) $(ARGS)
endif

# Tokens of ours and of the npm package iso-ucan, each verified by the other. Fetches the package; not a part of the tests.
interop: .venv/.test
	@command -v node >/dev/null && command -v npm >/dev/null || { \
	  echo 'nomos: error: make interop needs node 20 or newer, and npm' >&2; exit 2; }
	@mkdir -p .venv/interop
	cp tests/interop/package.json tests/interop/iso.mjs .venv/interop
	npm install --prefix .venv/interop --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel=error
	$(BIN)/python -m pytest --timeout=$(TEST_TIMEOUT_SECONDS) $(ARGS) tests/interop/interop_iso_ucan.py

# One test kills the log's writer by strace. Does nothing where strace is there, or where there is no apt-get.
strace:
	@command -v strace >/dev/null || ! command -v apt-get >/dev/null || \
		apt-get install -y strace || { apt-get update && apt-get install -y strace; }

# Calls to hosts that speak SSH are tested on OpenSSH's server too, and their commands on the shells that hosts have. Does
# nothing where they are there, or where there is no apt-get.
SSH_PACKAGES := openssh-server ksh zsh fish
openssh:
	@test -x /usr/sbin/sshd && command -v ksh >/dev/null && command -v zsh >/dev/null && command -v fish >/dev/null || \
		! command -v apt-get >/dev/null || apt-get install -y --no-install-recommends $(SSH_PACKAGES) || \
		{ apt-get update && apt-get install -y --no-install-recommends $(SSH_PACKAGES); }

# The approval pages are tested in Chromium. Does nothing where it is there, or where there is no apt-get.
chromium:
	@command -v chromium >/dev/null || ! command -v apt-get >/dev/null || \
		apt-get install -y --no-install-recommends chromium || \
		{ apt-get update && apt-get install -y --no-install-recommends chromium; }

# Connected accounts are tested against the npm package oidc-provider, which needs node. Fetches it once. Does nothing where
# there is neither node nor an apt-get.
provider: .venv/.test
	@command -v node >/dev/null && command -v npm >/dev/null || ! command -v apt-get >/dev/null || \
		apt-get install -y --no-install-recommends nodejs npm || \
		{ apt-get update && apt-get install -y --no-install-recommends nodejs npm; }
	@! command -v npm >/dev/null || test -d .venv/provider/node_modules/oidc-provider || { \
		mkdir -p .venv/provider && cp tests/oauth/package.json .venv/provider && \
		npm install --prefix .venv/provider --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel=error; }

check: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(addprefix -p ,$(PACKAGES))
	$(BIN)/lint-imports --no-cache

# ARGS=--upgrade takes newer versions; without it only what the .in files changed moves.
lock: .venv/.bootstrap
	$(COMPILE) $(ARGS) requirements/bootstrap.in -o requirements/bootstrap.txt
	$(COMPILE) $(ARGS) requirements/run.in -o requirements/run.txt
	$(COMPILE) $(ARGS) requirements/test.in -c requirements/run.txt -o requirements/test.txt

# What these targets made. The installation of `make up` (.nomos) holds keys and stays: nomos up --fresh replaces it.
clean:
	rm -rf .venv .demo .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find shared services tests -name __pycache__ -type d -prune -exec rm -rf {} +
