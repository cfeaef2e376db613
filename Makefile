# make repro: environment, data, pipeline, tables.   make test: everything that guards the project.
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)
# stages that run at the same time, a thread each
JOBS ?= 2

.PHONY: env lock repro smoke procedural search check test bench soak

env: .venv/made

.venv/made: requirements.lock pyproject.toml tools/env.sh
	@PYTHON="$(PYTHON)" tools/env.sh

# the newest versions that pyproject.toml allows, for every platform and Python at once
lock: env
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --fork-strategy fewest --upgrade --generate-hashes \
	  --no-emit-index-url --no-annotate --custom-compile-command "make lock" --quiet --output-file requirements.lock

repro: env
	slavc doctor
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

# one thread a process; and what a test frees goes back to the machine, where glibc would keep it for the next one
QUIETLY := OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=4194304

# the minute between two edits
check: env
	$(QUIETLY) pytest -n logical --maxprocesses 2 --dist loadfile -m "not long"

test: env
	-slavc assets
	$(QUIETLY) pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# speed and memory, as ratios against the obvious alternative in the same run: reports/bench.md, with a GPU reports/bench-cuda.md
bench: env
	python bench/report.py

# kills prepare, train and evaluate twenty times each; the results must not differ
soak: env
	python bench/soak.py
