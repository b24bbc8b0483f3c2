# Needs make and Python 3.11 or later; the rest goes into .venv.

PYTHONS := python3.14 python3.13 python3.12 python3.11 python3
USABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in $(PYTHONS); do \
	"$$python" -c "$(USABLE)" 2>/dev/null && { command -v "$$python"; break; }; done)
BIN := .venv/bin
# sets up each environment once, also if two processes start at the same time
ONCE := .ci/once.py
PIP := $(BIN)/python $(ONCE) $(BIN)/python -m pip --disable-pip-version-check install --quiet \
	--constraint constraints.txt

.PHONY: help simulate chaos prove fire demo generate test matrix pythons lint types imports coverage check docs \
	release-check audit bench clean pictures screenshots

# lists the targets
help:
	@awk '/^# / { text = substr($$0, 3); next } \
		/^[a-z-]+:( |$$)/ { split($$1, name, ":"); if (text) printf "  %-14s %s\n", name[1], text } { text = "" }' Makefile

# runs the demonstration in memory
demo: .venv/.installed
	@$(BIN)/flux demo

# tests of a real Kafka mostly wait, so more files at a time than a small machine has cores; WORKERS=0: in one process
WORKERS ?= 6

# runs all tests: six files at a time, then those that are marked timed
test: .venv/.developed
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not timed"
	$(BIN)/pytest --numprocesses $(WORKERS) -m timed $$(grep -rl --include='test_*.py' mark.timed tests examples)

# runs the unit tests on each Python from 3.11 on PATH
matrix: .venv/.matrix
	$(BIN)/nox

# runs them on those of Debian unstable, in a chroot; needs root and debootstrap
pythons:
	.ci/pythons unstable 3.13 3.14

SEEDS ?= 1000

# simulates thousands of seeds of faults: make simulate SEEDS=10000
simulate: .venv/.developed
	cd tests && ../$(BIN)/python -m simulation 0 --seeds $(SEEDS)

# injects faults into a real cluster of three brokers; takes minutes
chaos: .venv/.developed
	cd tests && ../$(BIN)/python -m chaos

SCALE ?= 1
STAGES ?=

# checks flux against a real Kafka, stage by stage; report in build/proof: make prove STAGES=model SCALE=0.025
prove: .venv/.developed
	cd tests && ../$(BIN)/python -m proof $(STAGES) --scale $(SCALE)

MODULES ?=

# prints changes of the core that no test notices: make mutants MODULES=flux/core/policy.py
mutants: .venv/.developed
	cd tests && ../$(BIN)/python -m proof.mutation $(MODULES)

# kills brokers and processes of producers; takes minutes
fire: .venv/.developed
	$(BIN)/pytest -m fire

# checks style and format
lint: .venv/.developed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# checks types
types: .venv/.developed
	$(BIN)/mypy
	$(BIN)/pyright

# derives flux/consuming/blocking from flux/consuming/awaited
generate: .venv/bin/activate
	$(BIN)/python .ci/generate.py

# checks that imports point inward
imports: .venv/.developed
	$(BIN)/lint-imports

# checks that each module of the core is wholly covered by its own tests
coverage: .venv/.developed
	$(BIN)/python .ci/core_coverage.py

# lint, types, imports, test and coverage
check: lint types imports test coverage

# builds the documentation as a site in build/site; fails on a broken link
docs: .venv/.documented
	$(BIN)/zensical build --clean --strict
	@! grep -rEo '<(script|link|img)[^>]+(src|href)="(https?:)?//[^"]*"' build/site --include='*.html' || \
		{ echo "make docs: the site loads something from elsewhere" >&2; exit 1; }

# builds the package of a release, checks it, and uses it in an empty environment
release-check: .venv/.developed
	$(BIN)/python .ci/release_check.py

# checks the installed packages for known vulnerabilities; queries PyPI
audit: .venv/.audited
	$(BIN)/pip-audit --local --skip-editable

# draws the diagrams of the documentation: docs/images/*.svg from the *.d2 beside them
pictures: .venv/.documented
	$(BIN)/python .ci/draw.py

# takes the pictures of flux web for the documentation; needs Chromium
screenshots: .venv/.developed
	cd tests && ../$(BIN)/python -m integration.pictures ../docs/images

ROUNDS ?= 3

# measures flux and other libraries: make bench ROUNDS=1 CASES=consume,produce; SCALE=0.01 only checks that it runs
bench: .venv-bench/.installed
	.venv-bench/bin/python -m benchmarks --rounds $(ROUNDS) --scale $(SCALE) --cases "$(CASES)" \
		--python .venv-bench/quix/bin/python

# removes everything that make created
clean:
	rm -rf .venv .venv-bench .venv-proof .bench build dist .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find flux tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

# the last that venv writes
.venv/bin/activate:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or later with venv was found: install one (on Debian:" \
		"python3 and python3-venv), or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) $(ONCE) sh -c 'test -e $@ || "$(PYTHON)" -m venv .venv'

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/activate
	$(PIP) --editable .
	@touch $@

.venv/.developed: pyproject.toml constraints.txt | .venv/bin/activate
	$(PIP) --editable '.[dev]'
	@touch .venv/.installed $@

# a library that cannot be installed is left out of the tables
BENCH_PIP = $(PYTHON) $(ONCE) .venv-bench/bin/python -m pip --disable-pip-version-check install --quiet \
	--constraint constraints.txt
.venv-bench/.installed: pyproject.toml constraints.txt | .venv-bench/bin/activate .venv-bench/quix/bin/activate
	$(BENCH_PIP) --editable '.[bench]' || $(BENCH_PIP) --editable '.[aiokafka]'
	-$(PYTHON) $(ONCE) .venv-bench/quix/bin/python -m pip --disable-pip-version-check install --quiet 'quixstreams>=3.28'
	@touch $@

.venv-bench/bin/activate .venv-bench/quix/bin/activate: %/bin/activate:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or later with venv was found" >&2; exit 1; }
	$(PYTHON) $(ONCE) sh -c 'test -e $@ || "$(PYTHON)" -m venv $*'

.venv/.documented: pyproject.toml constraints.txt | .venv/bin/activate
	$(PIP) --editable '.[docs]'
	@touch $@

.venv/.audited: .venv/.developed
	$(PIP) pip-audit
	@touch $@

.venv/.matrix: pyproject.toml constraints.txt | .venv/bin/activate
	$(PIP) --editable '.[matrix]'
	@touch $@
