# Each target makes its own .venv first; without make, the README gives the plain commands behind each.
# The environment is installed by pip: other installers may not know constraints.txt's CPU build of torch.
PYTHON ?= python3
# named, because macOS' make 3.81 otherwise looks commands up in the PATH that it was started with, not in this one
SHELL := bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {print $$1 "\t" $$2}' Makefile

repro: .venv/installed ## rebuild everything that is out of date, from the images to the verified service
ifeq ($(shell grep -c '^sources: {}' params.yaml),1)
	@echo 'params.yaml: has no source yet; python -m Data_processing.add_source NAME PATH adds one'
else
	@python -m Datasets.tools.params
	dvc repro
endif

setup: .venv/installed ## install the git hooks, and the drivers that merge dvc.lock and .dvc files
	git config merge.dvc-lock.driver 'python -m Datasets.tools.merge_lock %O %A %B'
	git config merge.dvc.driver 'dvc git-hook merge-driver --ancestor %O --our %A --their %B'
	pre-commit install

test: .venv/installed ## run the tests
	python -m pytest -n auto --dist worksteal

lint: .venv/installed ## check style, types and import contracts
	ruff check
	ruff format --check
	mypy Datasets Data_processing Models Deployment
	lint-imports

bench: .venv/installed ## run all benchmarks, which takes hours, and write tests/benchmarks/README.md
	python -m tests.benchmarks

s3: .venv/installed ## start an S3 server on this machine to try sharing with; Ctrl-C stops it
	python -m tests.template.s3_server

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt '.[train,serve,dev,template]'
	@rm -rf build/bdist.* build/lib *.egg-info; rmdir build 2>/dev/null || true
	@touch $@

.PHONY: help repro setup test lint bench s3
