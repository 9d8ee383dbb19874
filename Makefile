# Two commands are enough: `make demo` and `make test`. Both install what they need into .venv first.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?= recipes/demo.yaml
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# One thread a process: ranks and test workers share the cores.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help demo test test-all lint bench bench-gpu install install-dev clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/ -/'

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python >= 3.10 is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# constraints.txt pins what is known to work together; a torch that is there already is kept.
$(VENV)/.installed: $(VENV)/.made setup.py constraints.txt
	$(BIN)/pip install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

install: $(VENV)/.installed  ## install into .venv
install-dev: $(VENV)/.installed-dev  ## the same, with what tests and lint need

demo: install  ## the whole pipeline at small scale; prints where the report is
	$(BIN)/tracestill run $(DEMO)

test: install-dev  ## the tests (under 12 minutes on two cores)
	$(BIN)/python -m pytest -q

test-all: install-dev  ## the tests, soaks included (an hour)
	$(BIN)/python -m pytest -q -m "soak or not soak"

lint: install-dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	for part in data_pipeline kernels trainer launch; do \
	    MYPYPATH=.types $(BIN)/mypy --namespace-packages --explicit-package-bases -p tracestill.$$part || exit 1; done

# A claim that fails is printed, and does not stop the rest.
RESULTS ?= benchmarks/results
bench: install-dev  ## the benchmarks on this machine's CPU; writes into RESULTS (20 minutes)
	-$(BIN)/python benchmarks/planner.py --json $(RESULTS)/planner_cpu.json
	-$(BIN)/python benchmarks/linear_cross_entropy.py --device cpu --json $(RESULTS)/linear_cross_entropy_cpu.json
	-$(BIN)/python benchmarks/pack.py --json $(RESULTS)/pack_cpu.json
	-$(BIN)/python benchmarks/demo.py --json $(RESULTS)/demo_three_seeds.json

bench-gpu: install-dev  ## correctness and speed of the kernels on one GPU (8 minutes)
	$(BIN)/python -m pytest -q tests/kernels
	$(BIN)/python benchmarks/all_kernels.py --json $(RESULTS)/kernels_gpu.json

clean:  ## remove .venv and runs
	rm -rf $(VENV) runs
