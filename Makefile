# make repro: environment, data, pipeline, tables.   make test: everything that guards the project.
PYTHON ?= python3.11
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)
# stages that run at the same time, a thread each
JOBS ?= 2

.PHONY: env repro smoke procedural search test bench soak

env: .venv/made

.venv/made: pyproject.toml
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet -e '.[dev]'
	touch $@

repro: env
	nbdev_export
	slavc assets
	slavc repro --jobs $(JOBS)
	slavc show

smoke: env
	slavc repro profiles/smoke/params.yaml --jobs $(JOBS)
	slavc show profiles/smoke/params.yaml

# SLAVC on a second world: what its two branches learn there
procedural: env
	slavc repro profiles/procedural/params.yaml --jobs $(JOBS)
	slavc show profiles/procedural/params.yaml

# the written-down search on the validation draw, from which params.yaml was frozen
search: env
	slavc assets
	slavc repro profiles/search/params.yaml --jobs $(JOBS)
	slavc show profiles/search/params.yaml

test: env
	-slavc assets
	OMP_NUM_THREADS=1 pytest -n auto --maxprocesses 4 --dist loadfile

# speed and memory, as ratios against the obvious alternative in the same run: reports/bench.md, with a GPU reports/bench-cuda.md
bench: env
	python bench/report.py

# kills prepare, train and evaluate twenty times each; the results must not differ
soak: env
	python bench/soak.py
