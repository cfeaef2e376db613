# make repro: environment, data, pipeline, tables.   make test: everything that guards the project.
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)
# stages that run at the same time, a thread each
JOBS ?= 2
# VERBOSE=1: all that DVC and the stages say
REPRO = slavc repro --prepared --jobs $(JOBS) $(if $(VERBOSE),--verbose)

.PHONY: env lock repro quick smoke search check test docs bench soak

env: .venv/made

.venv/made: requirements.lock pyproject.toml tools/env.sh
	@PYTHON="$(PYTHON)" tools/env.sh

# the newest versions that pyproject.toml allows, for every platform and Python at once
lock: env
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --fork-strategy fewest --upgrade --generate-hashes \
	  --no-emit-index-url --no-annotate --custom-compile-command "make lock" --quiet --output-file requirements.lock

# the chapters are what counts: modules are exported again whenever either has changed
.venv/exported: .venv/made $(wildcard nbs/*.ipynb nbs/*/*.ipynb slavc/*.py slavc/*/*.py)
	nbdev_export
	@touch $@

repro: env .venv/exported
	$(REPRO)
	slavc show

smoke: env
	$(REPRO) profiles/smoke.yaml
	slavc show profiles/smoke.yaml

# Table 3 of the default world from fewer clips: the first thing to try
quick: env
	$(REPRO) profiles/quick.yaml
	slavc show profiles/quick.yaml

# four tries of every method on the validation draw, by which the settings of params.yaml are chosen
search: env
	$(REPRO) profiles/search.yaml
	mkdir -p reports/search && cp profiles/search/reports/tables/search.* reports/search/
	slavc show profiles/search.yaml

# one thread a process; and what a test frees goes back to the machine, where glibc would keep it for the next one
QUIETLY := OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=4194304

# the minute between two edits
check: env
	$(QUIETLY) pytest -n logical --maxprocesses 2 --dist loadfile -m "not long"

test: env
	-slavc assets
	$(QUIETLY) pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# the chapters as a site, offline: _docs/html/index.html
docs: env
	python docs/build.py

# speed and memory, as ratios against the obvious alternative in the same run: reports/bench.md, with a GPU reports/bench-cuda.md
bench: env
	python bench/report.py

# kills prepare, train and evaluate twenty times each; the results must not differ
soak: env
	python bench/soak.py
