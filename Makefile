# make repro: environment, data, pipeline, tables.   make test: everything that guards the project.
PYTHON ?= python3.11
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)
PARAMS ?= params.yaml

.PHONY: env repro smoke search test clean

env: .venv/made

.venv/made: pyproject.toml
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet -e '.[dev]'
	touch $@

repro: env
	nbdev_export
	slavc assets
	dvc repro
	slavc show

smoke: env
	dvc repro profiles/smoke/dvc.yaml
	slavc show profiles/smoke/params.yaml

# the written-down search on the validation draw, from which params.yaml was frozen
search: env
	slavc assets
	dvc repro profiles/search/dvc.yaml
	slavc show profiles/search/params.yaml

test: env
	-slavc assets
	pytest
