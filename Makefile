# make setup | demo | test | test-catalog | test-jax | test-torch | doors | lint | format | bench | conformance | sanitize
#      ptxas | gpu-check | gpu-wheels | build | clean
# Everything happens in .venv, which the first target called makes, with PYTHON if that is given.

SHELL := /bin/sh
VENV := .venv
RUN := $(VENV)/bin/python
QUIETLY := -q --disable-pip-version-check
REQUIRED := import functools, sys, tomllib; \
	print(*functools.reduce(dict.get, sys.argv[1:], tomllib.load(open("pyproject.toml", "rb"))))
C_FILES = $$(git ls-files '*.c' '*.cc' '*.cu' '*.cuh' '*.h' '*.inc')
DEMO_SEED ?= 7
# Of `make test`; each held about 2 GB when it was looked at.
TEST_PROCESSES ?= 2
# Environments with Keras on JAX alone and on PyTorch alone; made unless there is another folder of them.
BACKENDS ?= build/backends
# Pythons of environments with the libraries that kvision is compared with; made unless named.
PEER ?= build/peers/torchvision/bin/python
ADDONS_PEER ?= build/peers/addons/bin/python
KERAS_CV_PEER ?= build/peers/keras_cv/bin/python
IMAGING_PEER ?= build/peers/imaging/bin/python
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: setup demo test test-catalog test-jax test-torch doors lint format bench conformance sanitize ptxas gpu-check \
	gpu-wheels clean build

setup: $(VENV)/.built

# Everything but the native library. A set-up that was broken off starts afresh, from pip's cache.
$(VENV)/.installed: pyproject.toml setup.py
	@test -f $@ || { python=$$(tools/prerequisites.sh) && rm -rf $(VENV) && "$$python" -m venv $(VENV); }
	@rm -f $@
	@echo "Installing TensorFlow and everything else into $(VENV)"
	$(RUN) -m pip install $(QUIETLY) --upgrade $$($(RUN) -c '$(REQUIRED)' build-system requires)
	KVISION_BUILD_OPS=0 $(RUN) -m pip install $(QUIETLY) --no-build-isolation -e '.[all,dev]'
	@touch $@

$(VENV)/.built: $(VENV)/.installed CMakeLists.txt $(shell find csrc -type f)
	@echo "Building the native library into kvision/"
	KVISION_BUILD_DIR=build/venv $(RUN) -m pip install $(QUIETLY) --no-build-isolation --no-deps -e .
	@touch $@

demo: setup
	$(RUN) examples/demo.py --seed $(DEMO_SEED)

test: setup
	KVISION_REQUIRE_OPS=1 $(RUN) -m pytest -n $(TEST_PROCESSES) --dist loadfile

# The contract of the catalog over all its models, not one a family; writes docs/models.md.
test-catalog: setup
	KVISION_REQUIRE_OPS=1 $(RUN) -m tests.contract.models_page

# The same tests where there is no TensorFlow: Keras on JAX alone, and on PyTorch alone (5 GB). A copy
# of the checkout is installed there, because the native library of this one is built for TensorFlow.
test-jax test-torch: test-%: $(BACKENDS)/%/bin/python
	rm -rf $(BACKENDS)/$*/source
	mkdir $(BACKENDS)/$*/source
	git ls-files -z --cached --others --exclude-standard --deduplicate | \
		xargs -0 cp --preserve=timestamps --parents -t $(BACKENDS)/$*/source
	cd $(BACKENDS)/$*/source && \
		KVISION_TENSORFLOW=none KVISION_BUILD_DIR=../build ../bin/python -m pip install $(QUIETLY) \
			--no-build-isolation -e '.[$*,all,dev]' && \
		KVISION_DATA=$(or $(KVISION_DATA),$(abspath ../shared/data)) KERAS_BACKEND=$* KVISION_REQUIRE_OPS=1 \
			../bin/python -m pytest $(TESTS)

# Every op and training through TensorFlow, its XLA, JAX and PyTorch, and the time of RoIAlign through each; the copies
# installed there are brought up to date first.
doors: setup
	$(MAKE) test-jax test-torch TESTS=tests/test_build.py
	$(RUN) -m tests.conformance.compiled answer build/answers.npz
	$(RUN) -m tests.conformance.compiled compare build/answers.npz
	KERAS_BACKEND=jax $(BACKENDS)/jax/bin/python -m tests.conformance.compiled compare build/answers.npz
	KERAS_BACKEND=torch $(BACKENDS)/torch/bin/python -m tests.conformance.compiled compare build/answers.npz
	$(RUN) -m tests.conformance.doors --jax $(BACKENDS)/jax/bin/python --torch $(BACKENDS)/torch/bin/python
	$(RUN) benchmarks/doors.py --jax $(BACKENDS)/jax/bin/python --torch $(BACKENDS)/torch/bin/python

# Before kvision is built: XLA's header.
HEADERS_jax = jaxlib

build/backends/%/bin/python:
	rm -rf build/backends/$*.partial
	python=$$(tools/prerequisites.sh) && "$$python" -m venv build/backends/$*.partial
	build/backends/$*.partial/bin/python -m pip install $(QUIETLY) --upgrade \
		$$(build/backends/$*.partial/bin/python -c '$(REQUIRED)' build-system requires) $(HEADERS_$*)
	mv build/backends/$*.partial build/backends/$*

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/clang-format --dry-run --Werror $(C_FILES)

format: setup
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .
	$(VENV)/bin/clang-format -i $(C_FILES)

# Against torchvision (5 GB).
bench: setup $(PEER) $(IMAGING_PEER)
	for file in $(filter-out %/doors.py %/nuclei_baseline.py,$(wildcard benchmarks/[a-z]*.py)); do $(RUN) $$file --peer $(PEER) || exit 1; done

PACKAGES_torchvision = numpy $$($(RUN) -c '$(REQUIRED)' project optional-dependencies interop)
PACKAGES_addons = 'tensorflow-cpu==2.15.*' tensorflow-addons==0.23.0 nvidia-cuda-runtime-cu12
PACKAGES_keras_cv = keras-cv==0.9.0 'tensorflow-cpu==2.21.*' 'keras==3.15.*'
PACKAGES_imaging = opencv-python-headless scipy connected-components-3d edt
# TensorFlow 2.15 was never built for a Python after 3.11.
PYTHON_addons = python3.11

build/peers/%/bin/python:
	rm -rf build/peers/$*.partial
	$(or $(PYTHON_$*),$(RUN)) -m venv build/peers/$*.partial
	build/peers/$*.partial/bin/python -m pip install $(QUIETLY) $(PACKAGES_$*)
	mv build/peers/$*.partial build/peers/$*

# First against the answers that other libraries gave once, which cover layers, models and metrics
# too and which `make test` runs as well; then against the libraries themselves, on new cases
# (CONFORMANCE='--seed 1 --cases 100000'), which takes minutes and 8 GB and is no part of a test run.
conformance: setup $(PEER) $(ADDONS_PEER) $(KERAS_CV_PEER) $(IMAGING_PEER)
	$(RUN) -m pytest -v -rs -m "not catalog" $$(grep -rlE --include='test_*.py' 'golden|mark\.conformance' tests)
	KVISION_REQUIRE_OPS=1 $(RUN) -m tests.conformance --torchvision $(PEER) \
		--addons $(ADDONS_PEER) --keras-cv $(KERAS_CV_PEER) --imaging $(IMAGING_PEER) $(CONFORMANCE)

# The CPU kernels on generated inputs under the sanitizers. SANITIZE="nms --runs 1000 --seed 2" chooses.
sanitize: $(VENV)/.installed
	$(RUN) tools/sanitize.py $(SANITIZE)

# Registers and spills of the CUDA kernels, where there is nvcc.
ptxas: $(VENV)/.installed
	$(RUN) tools/ptxas.py

# On a machine with an NVIDIA GPU, with its own Python and without TensorFlow: docs/gpu.md. PARTS="build check" chooses.
WHEELS ?= .wheels
gpu-check:
	$(or $(PYTHON),python3) -m tools.gpu_check --wheels $(WHEELS) $(PARTS)

# What such a machine lacks, to be carried there; for Python 3.12 unless GPU_PYTHON=3.13, say.
GPU_PYTHON ?= 3.12
gpu-wheels:
	$(or $(PYTHON),python3) -m pip download $(QUIETLY) --no-deps --only-binary=:all: --implementation cp --python-version $(GPU_PYTHON) \
		$(foreach version,2_28 2_27 2_17,--platform manylinux_$(version)_x86_64) -d $(WHEELS) \
		'keras==3.15.*' optree namex 'faster-coco-eval>=1.6'

# The native library alone, incrementally, for the TensorFlow of an environment of your own.
build:
	@mkdir -p build
	flock build/.lock sh -ec 'test -f build/dev/build.ninja || $(PYTHON) -m cmake -G Ninja -S . -B build/dev \
		-DPython_EXECUTABLE=$$(realpath -s $(PYTHON)) $(if $(KVISION_CUDA),-DKVISION_CUDA=$(KVISION_CUDA)) \
		-DCMAKE_MAKE_PROGRAM=$$($(PYTHON) -c "import ninja; print(ninja.BIN_DIR)")/ninja; $(PYTHON) -m cmake --build build/dev'

clean:
	rm -rf $(VENV) build out dist *.egg-info kvision/*.so
