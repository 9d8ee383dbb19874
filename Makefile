# Two commands are enough: `make demo` and `make test`. Both install what they need into .venv first.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?= recipes/demo.yaml
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# One thread a process: ranks and test workers share the cores.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help demo test quick test-all lint bench bench-gpu bench-peers install install-dev clean

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

$(VENV)/.installed-dev: $(VENV)/.made setup.py constraints.txt
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.installed $@

install: $(VENV)/.installed  ## install into .venv
install-dev: $(VENV)/.installed-dev  ## the same, with what tests and lint need

demo: install  ## the whole pipeline at small scale; prints where the report is
	$(BIN)/tracestill run $(DEMO)

# WORKERS processes share the tests out, file by file.
WORKERS ?= 2
test: install-dev  ## the tests, on WORKERS processes
	$(BIN)/python -m pytest -q -n $(WORKERS)

quick: install-dev  ## the tests without those that start processes: ranks, hosts, commands, compilers, benchmarks
	$(BIN)/python -m pytest -q -n $(WORKERS) -m "not slow and not soak"

test-all: install-dev  ## the tests, soaks included (an hour)
	$(BIN)/python -m pytest -q -m "soak or not soak"

lint: install-dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	for part in data_pipeline kernels trainer launch; do \
	    MYPYPATH=.types $(BIN)/mypy --namespace-packages --explicit-package-bases -p tracestill.$$part || exit 1; done

# Other people's trainers go into a folder of their own, so that they change no version here.
PEERS ?= .peers
bench-peers: install-dev  ## install TRL into PEERS, for the benchmarks of the trainer
	$(BIN)/pip install -q --target $(PEERS) --no-deps trl==1.16.0 datasets==5.2.0 multiprocess dill xxhash pandas

# A claim that fails is printed, and does not stop the rest.
RESULTS ?= benchmarks/results
bench: install-dev  ## the benchmarks on this machine's CPU; writes into RESULTS (an hour)
	-$(BIN)/python benchmarks/planner.py --json $(RESULTS)/planner_cpu.json
	-$(BIN)/python benchmarks/linear_cross_entropy.py --device cpu --json $(RESULTS)/linear_cross_entropy_cpu.json
	-$(BIN)/python benchmarks/pack.py --json $(RESULTS)/pack_cpu.json
	-$(BIN)/python benchmarks/sampling.py --json $(RESULTS)/sampling.json
	-$(BIN)/python benchmarks/demo.py --json $(RESULTS)/demo_three_seeds.json
	-$(BIN)/python benchmarks/trainer_cpu.py --peers $(PEERS) --json $(RESULTS)/trainer_cpu.json
	-test ! -d models/smollm2-135m || $(BIN)/python benchmarks/real_student.py --data data --student models/smollm2-135m \
	    --peers $(PEERS) --json $(RESULTS)/real_student.json
	-$(BIN)/python benchmarks/forecast.py --json $(RESULTS)/forecast_cpu.json --plot docs/forecast.svg

bench-gpu: install-dev  ## kernels (8 minutes) and trainer on one GPU; GPU_OPTIONS=--quick shortens the latter
	$(BIN)/python -m pytest -q tests/kernels
	-$(BIN)/python benchmarks/all_kernels.py --json $(RESULTS)/kernels_gpu.json
	$(BIN)/python benchmarks/trainer_gpu.py $(GPU_OPTIONS) --peers $(PEERS) --json $(RESULTS)/trainer_gpu.json

clean:  ## remove .venv and runs
	rm -rf $(VENV) runs
