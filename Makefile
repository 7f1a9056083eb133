# `make repro` and `make test` work on a fresh machine with python3.11+, pip, git, make and gcc. They set up the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV_VERSION := 0.13.9
UV := .uv/bin/uv
VENV := .venv/.installed
# Neighbouring tests share fixtures. With more than four processes, making the fixtures again costs more than it saves.
PARALLEL := -n auto --maxprocesses 4 --dist worksteal
ACTIVATE := export PATH="$(CURDIR)/.venv/bin:$$PATH" VIRTUAL_ENV="$(CURDIR)/.venv";

.DEFAULT_GOAL := help
.PHONY: help setup repro test test-slow test-gpu test-all lint format docs benchmarks lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV) ## create .venv from requirements.lock

repro: $(VENV) ## run the whole pipeline (dvc repro) as params.yaml says: on the demo
	@$(ACTIVATE) time dvc repro
	@$(ACTIVATE) dvc metrics show

test: $(VENV) ## run the fast tests
	@$(ACTIVATE) python -m pytest $(PARALLEL)

test-slow: $(VENV) ## run the slow tests
	@$(ACTIVATE) python -m pytest $(PARALLEL) -m slow

test-gpu: $(VENV) ## run the tests that need a GPU; without one they are skipped
	@$(ACTIVATE) python -m pytest -m gpu -rs

test-all: test test-slow test-gpu ## run all tests

lint: $(VENV) ## run the linter, the formatter check and the type checker
	@$(ACTIVATE) ruff check . && ruff format --check . && mypy

format: $(VENV) ## apply the formatter and the linter's safe fixes
	@$(ACTIVATE) ruff format . && ruff check --fix .

docs: $(VENV) ## build the documentation's website, site/index.html; a warning or a broken link fails
	rm -rf site
	@$(ACTIVATE) sphinx-build --quiet --fail-on-warning --keep-going --conf-dir docs . site
	@cp site/README.html site/index.html

benchmarks: $(UV) ## create .venv-benchmarks: the versions of the lock file, and the libraries that the benchmarks compare with
	$(UV) venv --quiet --allow-existing --python "$(PYTHON)" .venv-benchmarks
	$(UV) pip install --quiet --compile-bytecode --python .venv-benchmarks/bin/python --editable '.[benchmarks,dev]' \
		--requirement benchmarks/rivals.txt --override benchmarks/rivals-overrides.txt --constraint requirements.lock
	# torchcodec looks for FFmpeg's libraries by their usual names. PyAV brings them with a checksum in each name.
	@mkdir -p .venv-benchmarks/ffmpeg
	@for file in $(CURDIR)/.venv-benchmarks/lib/python*/site-packages/av.libs/*; do \
		[ -e "$$file" ] || continue; usual=$$(basename $$file | sed -E 's/-[0-9a-f]{8}(\.so\.[0-9]+).*/\1/'); \
		ln -sf $$file .venv-benchmarks/ffmpeg/; ln -sf $$file .venv-benchmarks/ffmpeg/$$usual; \
	done

lock: $(UV) ## regenerate requirements.lock from pyproject.toml
	$(UV) pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--generate-hashes --no-header --quiet --upgrade --output-file requirements.lock

clean: ## remove the environments and the website; keep data, shards and results
	rm -rf .venv .venv-benchmarks .uv site docs/api

# uv goes into a separate folder, so a system-managed Python needs neither root rights nor the venv module.
$(UV):
	@$(PYTHON) -m pip --version >/dev/null || { echo "pip is missing for $(PYTHON): install it (Debian: apt-get install python3-pip)" >&2; exit 1; }
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target .uv "uv==$(UV_VERSION)"

$(VENV): requirements.lock pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python "$(PYTHON)" .venv
	# Each process would compile what it imports, again and again where PYTHONDONTWRITEBYTECODE is set.
	$(UV) pip sync --quiet --compile-bytecode --python .venv/bin/python --require-hashes requirements.lock
	$(UV) pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	@.venv/bin/python -c 'import vl_convert; print(vl_convert.javascript_bundle(vl_version="5.21"))' > .venv/vega.js
	@touch $@
