# make train, test, coverage, test-all, check, bench, conformance, docs and wheel: each target does the setup it needs.
#
#   TORCH=2.12.0          another version of torch
#   PYTHON=python3.12     the Python to create the environment with
#   TORCHNOTES_INSTRUCTION_SETS=avx512   build the kernels for only these instruction sets, or for this machine's
#                                        (native); by default for all (default avx2 avx512); avx512 includes avx2
#   ONLY='relu[1] float32'   run the cases of make conformance whose names contain this
#   TORCHNOTES_CUDA=1/0   build the CUDA kernels or not; by default if there are a toolkit and a CUDA build of torch

TORCH ?= 2.13.0
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet
HERE := env "PYTHONPATH=$(CURDIR)"
# Tests are handed out one by one: the slowest come last.
PYTEST := $(PY) -m pytest -q -n auto --maxschedchunk 1
SOURCES := setup.py torchnotes/__init__.py $(shell find csrc)
.PHONY: build train test coverage test-all kernels check format bench conformance docs wheel sanitize clean
.DELETE_ON_ERROR:

build: $(VENV)/built
	@:

$(VENV)/torch-$(TORCH):
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade "pip>=25.1"
	$(PIP) torch==$(TORCH)
	$(PIP) --group build --group tools
	rm -f $(VENV)/torch-* $(VENV)/built $(VENV)/usable && touch $@

$(VENV)/built: $(VENV)/torch-$(TORCH) $(SOURCES)
	@$(PY) setup.py --quiet build_ext --inplace
	@touch $@

# Builds only the kernels for this machine.
$(VENV)/usable: $(VENV)/torch-$(TORCH) $(SOURCES)
	@$(MAKE) --silent --question $(VENV)/built || \
		TORCHNOTES_INSTRUCTION_SETS=native $(PY) setup.py --quiet build_ext --inplace
	@touch $@

$(VENV)/tests: $(VENV)/torch-$(TORCH) pyproject.toml
	$(PIP) --group test --group docs
	command -v nvcc >/dev/null || $(PIP) --group nvcc
	touch $@

$(VENV)/tools: $(VENV)/torch-$(TORCH) pyproject.toml
	$(PIP) --group check
	touch $@

train: $(VENV)/usable
	$(HERE) $(PY) -m torchnotes train

# Runs all tests with this machine's kernels, or ARGS="tests/ops/test_tanh.py -k values".
ARGS ?= tests
test: $(VENV)/usable $(VENV)/tests
	$(HERE) $(PYTEST) --durations 20 $(ARGS)

# Reports the lines of torchnotes/ that no test runs, in the processes that tests start as well.
coverage: export COVERAGE_FILE := $(CURDIR)/build/coverage/data
coverage: $(VENV)/usable $(VENV)/tests
	rm -rf build/coverage && mkdir -p build/coverage
	$(HERE) $(PY) -m coverage run -m pytest -q -n auto --maxschedchunk 1 tests
	$(PY) -m coverage combine --quiet
	$(PY) -m coverage report --show-missing --skip-covered --sort=cover

test-all: test kernels wheel sanitize conformance

# Repeats the tests of kernels with the other instruction sets, and with the CUDA kernels on the CPU.
kernels: build $(VENV)/tests
	$(HERE) ATEN_CPU_CAPABILITY=avx2 $(PYTEST) -m kernels
	$(HERE) ATEN_CPU_CAPABILITY=default $(PYTEST) -m kernels
	$(HERE) TORCHNOTES_KERNELS="$$($(PY) tests/cuda_on_cpu/build.py)" $(PYTEST) -m kernels
	$(HERE) $(PYTEST) -m nvcc

check: $(VENV)/tools
	$(VENV)/bin/pre-commit run --all-files

format: $(VENV)/tools
	$(VENV)/bin/ruff check --fix --quiet --exit-zero
	$(VENV)/bin/ruff format --quiet
	git ls-files -co --exclude-standard "csrc/*" "tests/*.h" "tests/*.cpp" "tests/*.cuh" | xargs $(VENV)/bin/clang-format -i

bench: build
	$(HERE) $(PY) -m torchnotes bench --save
	$(HERE) $(PY) -m benchmarks.sweep --full --compile --save
	$(HERE) $(PY) -m benchmarks.sweep --save --threads 1
	$(HERE) $(PY) -m benchmarks.instructions --save
	$(HERE) $(PY) -m benchmarks.watch --save
	$(HERE) $(PY) -m benchmarks.watch --save --direct 61 MLP
	$(HERE) $(PY) -m benchmarks.estimators --save
	$(HERE) $(PY) -m benchmarks.scaling
	$(HERE) $(PY) -m benchmarks.publish

# Compares with torch on the samples of torch's tests; with UPSTREAM, a PyTorch checkout, also runs these tests.
conformance: $(VENV)/usable $(VENV)/tests
	env "PYTHONPATH=$(CURDIR):$(CURDIR)/tests" $(PY) -W ignore -m conformance \
		$(if $(ONLY),--only '$(ONLY)') $(if $(UPSTREAM),--upstream '$(UPSTREAM)')

docs: build $(VENV)/tests
	$(HERE) $(PY) -m sphinx --quiet -nW --keep-going -j auto -b html docs build/docs
	$(HERE) $(PY) -m sphinx --quiet -b doctest -d build/docs/.doctrees docs build/doctest
	@echo build/docs/index.html

# Checks the wheel in an environment with only torch.
wheel: build
	rm -rf build/lib* build/bdist* build/clean dist
	$(PY) -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist .
	$(PYTHON) -m venv build/clean
	build/clean/bin/python -m pip install --quiet torch==$(TORCH)
	build/clean/bin/python -m pip install --quiet --no-deps --force-reinstall dist/torchnotes-*.whl
	cd build && clean/bin/python -m torchnotes check

# Runs the tests of kernels, and those on 3 ranks, with the address and undefined-behavior sanitizers, whose libraries
# must be loaded before Python.
SANITIZED := build/sanitize
UNDER_SANITIZERS := env "PYTHONPATH=$(SANITIZED)/lib:$(CURDIR)" ASAN_OPTIONS=detect_leaks=0 \
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)"
sanitize: $(VENV)/tests
	TORCHNOTES_SANITIZE=1 TORCHNOTES_INSTRUCTION_SETS=native \
		$(PY) setup.py --quiet build --build-base $(SANITIZED) --build-lib $(SANITIZED)/lib
	$(UNDER_SANITIZERS) $(VENV)/bin/pytest -q -n auto --maxschedchunk 1 -p no:cacheprovider -m kernels tests/ops tests/optim
	$(UNDER_SANITIZERS) $(VENV)/bin/pytest -q -p no:cacheprovider "tests/test_distributed.py::test_by_ranks[3]"

clean:
	rm -rf build dist *.egg-info torchnotes/*.so torchnotes/_built.py $(VENV)/built $(VENV)/usable
