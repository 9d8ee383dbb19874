# Two commands are enough: `make demo` and `make test`. Both install what they need into .venv first.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?= recipes/demo.yaml
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# One thread a process: ranks and test workers share the cores.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help demo test quick test-all test-floor lint docs bench bench-gpu gpu-wheels bench-peers install install-dev clean

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
	MYPYPATH=.types $(BIN)/mypy --namespace-packages --explicit-package-bases \
	    $(foreach part,data_pipeline kernels trainer launch,-p tracestill.$(part))

docs: $(VENV)/.installed  ## README and docs/ as a site in build/docs; a broken link or anchor fails
	$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean

# Other people's trainers go into a folder of their own, so that they change no version here.
PEERS ?= .peers
PEER_WHEELS := trl==1.16.0 datasets==5.2.0 multiprocess==0.70.19 cut-cross-entropy==25.1.1
bench-peers: install-dev  ## install TRL into PEERS, for the benchmarks of the trainer
	$(BIN)/pip install -q --target $(PEERS) --no-deps $(PEER_WHEELS) dill xxhash pandas

# A claim that fails is printed, and does not stop the rest.
RESULTS ?= benchmarks/results
bench: install-dev  ## the benchmarks on this machine's CPU; writes into RESULTS (an hour)
	-$(BIN)/python benchmarks/planner.py --json $(RESULTS)/planner_cpu.json
	-$(BIN)/python benchmarks/linear_cross_entropy.py --device cpu --json $(RESULTS)/linear_cross_entropy_cpu.json
	-$(BIN)/python benchmarks/pack.py --json $(RESULTS)/pack_cpu.json
	-$(BIN)/python benchmarks/sampling.py --json $(RESULTS)/sampling.json
	-$(BIN)/python benchmarks/demo.py --json $(RESULTS)/demo_three_seeds.json
	-$(BIN)/python benchmarks/trainer_cpu.py --peers $(PEERS) --json $(RESULTS)/trainer_cpu.json
	-$(BIN)/python benchmarks/micro_step.py --json $(RESULTS)/micro_step.json
	-test ! -d models/smollm2-135m || $(BIN)/python benchmarks/real_student.py --data data --student models/smollm2-135m \
	    --peers $(PEERS) --json $(RESULTS)/real_student.json
	-$(BIN)/python benchmarks/forecast.py --json $(RESULTS)/forecast_cpu.json --plot docs/forecast.svg

# On a machine of its own, without a package index: GPU_PYTHON=python3, its own torch, and what it lacks in WHEELS
# (`make gpu-wheels` fetches that elsewhere). Nothing is installed into GPU_PYTHON.
GPU_PYTHON ?= $(BIN)/python
MINUTES    ?= 9
WHEELS     ?= .wheels
bench-gpu: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),install-dev)  ## all that a GPU has to show, in MINUTES; again: goes on
	@if ls $(WHEELS)/*.whl > /dev/null 2>&1; then $(GPU_PYTHON) -m pip install -q --no-index --no-deps --no-compile \
	    --upgrade --target $(WHEELS)/site $(WHEELS)/*.whl; fi
	PYTHONPATH="$(abspath $(WHEELS))/site:$(CURDIR)/.types:$(abspath $(PEERS)):$$PYTHONPATH" \
	    $(GPU_PYTHON) benchmarks/gpu.py --minutes $(MINUTES) --json $(RESULTS)/gpu.json $(GPU_OPTIONS)

# For Python 3.12 on x86-64. DeepSpeed and Liger's peers bring no compiled code.
CARRIED := annotated-types hjson typing-inspection typing-extensions liger-kernel pydantic pydantic-core dill
gpu-wheels: install-dev  ## fetch into WHEELS what bench-gpu needs on a machine with torch and transformers only
	DS_BUILD_OPS=0 $(BIN)/pip wheel -q --no-deps --no-build-isolation -c constraints.txt -w $(WHEELS) deepspeed
	$(BIN)/pip freeze -q --all | grep -iE "^($$(echo $(CARRIED) | sed 's/-/[-_]/g; s/ /|/g'))==" > $(WHEELS)/carried.txt
	$(BIN)/pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
	    $(foreach n,28 27 17,--platform manylinux_2_$(n)_x86_64) --platform manylinux2014_x86_64 -d $(WHEELS) \
	    -r $(WHEELS)/carried.txt $(PEER_WHEELS)

# The lowest versions that setup.py allows, in an environment of its own: kernels, machine code, a training, bench-gpu
# with its peers, which want newer ones of some packages and bring them in their own folder.
FLOOR        ?= .floor
FLOOR_PYTHON ?= $(PYTHON)
$(FLOOR)/.installed: setup.py
	$(FLOOR_PYTHON) -m venv $(FLOOR)
	$(FLOOR)/bin/pip install -q uv
	DS_BUILD_OPS=0 $(FLOOR)/bin/uv pip install -q --python $(FLOOR)/bin/python --resolution lowest-direct \
	    --no-build-isolation-package deepspeed -e '.[gpu,lora]' 'setuptools>=77' 'wheel>=0.45'
	$(FLOOR)/bin/uv pip install -q --python $(FLOOR)/bin/python pytest pytest-timeout pytest-xdist hypothesis
	@touch $@

$(FLOOR)/peers/.installed: $(FLOOR)/.installed
	$(FLOOR)/bin/uv pip install -q --python $(FLOOR)/bin/python --target $(FLOOR)/peers --no-deps $(PEER_WHEELS) \
	    dill xxhash pandas numpy pyarrow 'huggingface_hub<2'
	@touch $@

test-floor: $(FLOOR)/peers/.installed  ## the kernels, the engine and bench-gpu's code under the lowest versions (torch: gigabytes)
	$(FLOOR)/bin/python -m pytest -q -n $(WORKERS) tests/kernels tests/trainer/engine tests/trainer/loop \
	    tests/trainer/student tests/benchmarks/test_gpu.py tests/benchmarks/test_trainer_benchmarks.py
	$(FLOOR)/bin/python benchmarks/gpu.py --tiny --minutes 8 --peers $(FLOOR)/peers

clean:  ## remove .venv and runs
	rm -rf $(VENV) runs
