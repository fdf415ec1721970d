# `make demo` and `make test` do all of their own set-up; nothing else has to be run before.
#   make demo [KEEP=1] [OUT=DIR]   a training job lends its bubbles to a study, on a private Slurm cluster
#   make test                      lint, types, unit and integration tests
#   make soak [REPEATS=50]         faults of tenant, node and primary, at random moments, again and again
#   make clean                     removes what the others made here

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
OUT ?= hydro-demo
PLAIN := tests/benchmarks $(addprefix tests/hydro_hpc/,fusion nn optim report schedules surrogate)
CLUSTER := tests/slurm_plugin/cluster tests/slurm_plugin/test_clients.py \
	tests/slurm_plugin/test_coordinator_on_slurm.py tests/site_config/test_fragments.py \
	tests/hydro_hpc/devcluster/test_cluster.py tests/hydro_hpc/devcluster/test_commands.py
ALONE := tests/end_to_end tests/soak tests/hydro_hpc/demo/test_demo.py tests/hydro_hpc/devices \
	$(addprefix tests/hydro_hpc/trial/,test_passage.py test_points.py test_solo_exec.py \
	test_solo_residency.py test_switches.py test_thread_look.py)
REPEATS ?= 50

# A Python that users of the embedded cluster can run too: the system's, if it is new enough.
PYTHON ?= $(shell for p in /usr/bin/python3 /usr/bin/python3.13 /usr/bin/python3.12 \
	/usr/bin/python3.11 python3; do \
	"$$p" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo "$$p"; break; }; done)
# The embedded cluster needs root.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo "sudo -E")

.PHONY: demo test test-plain test-cluster test-processes test-alone soak lint setup debian clean

demo: setup
	$(SUDO) $(BIN)/hydro demo --out "$(OUT)" $(if $(KEEP),--keep)

test: setup
	$(MAKE) --jobs=3 --output-sync=target lint test-plain test-cluster
	$(MAKE) test-processes
	$(MAKE) test-alone

# What neither starts processes nor measures time.
test-plain:
	$(SUDO) $(BIN)/python -m pytest --numprocesses=2 $(PLAIN)

# What measures no time, and mostly waits for Slurm.
test-cluster:
	$(SUDO) $(BIN)/python -m pytest $(CLUSTER)

# What starts processes, and waits however long a busy machine takes; the rest of all tests.
test-processes:
	$(SUDO) $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile \
		$(addprefix --ignore=,$(PLAIN) $(CLUSTER) $(ALONE))

# What needs the cores to itself.
test-alone:
	$(SUDO) $(BIN)/python -m pytest $(ALONE)

# A failure says with which HYDRO_SOAK_SEED it comes again.
soak: setup
	HYDRO_SOAK_REPEATS=$(REPEATS) $(SUDO) $(BIN)/python -m pytest tests/soak

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

setup: debian $(VENV)/installed

debian:
	sh hydro_hpc/devcluster/setup.sh

# mup, the oracle of the surrogates' tests, comes without torchvision, pandas and seaborn, which these
# need not.
$(VENV)/installed: pyproject.toml constraints.txt hydro_hpc/trial/_points.c
	@[ -n "$(PYTHON)" ] || { echo "hydro: no Python 3.11 or later with venv was found; install python3 and python3-venv" >&2; exit 1; }
	[ -x $(BIN)/python ] || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[primary,mpi,report,examples,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--no-deps --use-pep517 mup
	touch $@

clean:
	rm -f hydro_hpc/trial/_points.*.so
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	$(MAKE) -C slurm_plugin/spank clean
