# Two commands on a fresh machine with python3 and make: `make demo` and `make test`. Each builds .venv/ first when needed.
.DEFAULT_GOAL := help
.PHONY: help setup test test-all test-cluster demo lint types clean

PYTHON  ?= python3
WORKERS ?= 2
# one thread per test process: with as many processes as cores, more threads only wait for each other
THREADS ?= 1
ARGS    ?=
FAULTS  ?= 0
SEED    ?= 0

# $(call timed,NAME,COMMAND): runs the command and ends with its total time, whatever happens
timed = @begin=$$(date +%s); { $(2); }; status=$$?; spent=$$(( $$(date +%s) - begin )); \
	if [ $$status -eq 0 ]; then end=finished; else end="FAILED (status $$status)"; fi; \
	echo "make $(1): $$end in $$(( spent / 60 )) min $$(( spent % 60 )) s"; exit $$status

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo "  variables: WORKERS=2 test processes, THREADS=1 threads in each, ARGS='-k cli' more for pytest or vgen demo,"
	@echo "             VGEN_PYTHON=python3.12, VGEN_TORCH_INDEX=<address of an index to take torch from>"

setup: ## build .venv/ (nothing to do when it is up to date)
	@$(PYTHON) scripts/setup.py

test: ## set-up, then the test suite, but for what takes longer than twenty seconds
	$(call timed,test,$(PYTHON) scripts/setup.py && OMP_NUM_THREADS=$(THREADS) .venv/bin/python -m pytest -n $(WORKERS) --durations=10 -m "not slow" $(ARGS))

test-all: ## the same with what takes longer
	$(call timed,test-all,$(PYTHON) scripts/setup.py && OMP_NUM_THREADS=$(THREADS) .venv/bin/python -m pytest -n $(WORKERS) --durations=20 -m "not cluster" $(ARGS))

test-cluster: ## installs Slurm where it may, starts one of two nodes and breaks trainings on it; FAULTS=50 SEED=7: as many random ones more
	$(call timed,test-cluster,bash scripts/system_packages.sh && $(PYTHON) scripts/setup.py && \
	{ PATH=$$PATH:/usr/sbin command -v slurmctld > /dev/null || { echo "make test-cluster needs Slurm: apt install slurmctld slurmd slurm-client munge"; false; }; } && \
	VGEN_NUM_FAULTS=$(FAULTS) VGEN_FAULT_SEED=$(SEED) OMP_NUM_THREADS=$(THREADS) .venv/bin/python -m pytest -m "slurm or cluster" --durations=20 $(ARGS))

demo: ## set-up, then the main job on the shipped model; prints where the report and the clip are
	$(call timed,demo,$(PYTHON) scripts/setup.py && .venv/bin/vgen demo $(ARGS))

lint: setup ## ruff (rules and format) and the import direction
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/lint-imports --no-cache

types: setup ## mypy
	@.venv/bin/mypy

clean: ## remove .venv/, caches and build outputs; runs and data stay
	@rm -rf .venv build dist .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
