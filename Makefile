# The words to remember: make test, make check, make bench, make train. Each does all the set-up it needs.
#
#   TORCH=2.12.0          another torch
#   PYTHON=python3.12     another Python to make the environment with
#   TORCHNOTES_INSTRUCTION_SETS=avx512   build the kernels for these alone (by default for all: default avx2 avx512)
#   TORCHNOTES_CUDA=1/0   build the CUDA kernels or not (by default where a toolkit and a CUDA torch are present)

TORCH ?= 2.13.0
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet
HERE := env "PYTHONPATH=$(CURDIR)"
SOURCES := setup.py torchnotes/__init__.py $(shell find csrc -type f)
# What runs again for every instruction set: not what is made of the kernels in Python, or by torch's compiler (which
# does not follow ATEN_CPU_CAPABILITY).
KERNEL_TESTS := tests/ops tests/optim --ignore tests/ops/test_linear_cross_entropy.py --ignore tests/optim/test_newton.py -k "not (inductor or compile \
	or export or composition or third or gradcheck or derivatives or vmap or transforms or dual or fake or autocast or hooks or opcheck)"

.PHONY: build train test check format bench sanitize clean
.DELETE_ON_ERROR:

build: $(VENV)/built

$(VENV)/torch-$(TORCH):
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade "pip>=25.1"
	$(PIP) torch==$(TORCH)
	$(PIP) --group build --group test
	command -v nvcc >/dev/null || $(PIP) --group nvcc
	rm -f $(VENV)/torch-* $(VENV)/built && touch $@

$(VENV)/built: $(VENV)/torch-$(TORCH) $(SOURCES)
	$(PY) setup.py --quiet build_ext --inplace
	touch $@

$(VENV)/tools: $(VENV)/torch-$(TORCH) pyproject.toml
	$(PIP) --group check --group bench
	touch $@

# The smallest real example; the job of the notes' network takes its place.
train: build
	$(HERE) $(PY) -m torchnotes train

test: build
	$(HERE) $(PY) -m pytest tests
	$(HERE) ATEN_CPU_CAPABILITY=avx2 $(PY) -m pytest -q $(KERNEL_TESTS)
	$(HERE) ATEN_CPU_CAPABILITY=default $(PY) -m pytest -q $(KERNEL_TESTS)
	$(HERE) TORCHNOTES_KERNELS="$$($(PY) tests/cuda_on_cpu/build.py)" $(PY) -m pytest -q $(KERNEL_TESTS)

check: $(VENV)/tools
	$(VENV)/bin/pre-commit run --all-files

format: $(VENV)/tools
	$(VENV)/bin/ruff check --fix --quiet --exit-zero
	$(VENV)/bin/ruff format --quiet
	git ls-files -co --exclude-standard "csrc/*" "tests/*.h" "tests/*.cpp" "tests/*.cuh" | xargs $(VENV)/bin/clang-format -i

bench: build $(VENV)/tools
	$(HERE) $(PY) -m benchmarks --save
	$(HERE) $(PY) -m benchmarks.publish

# The kernels again, built with the address and undefined-behaviour sanitizers, which must be loaded before Python.
SANITIZED := build/sanitize
sanitize: $(VENV)/torch-$(TORCH)
	TORCHNOTES_SANITIZE=1 \
		TORCHNOTES_INSTRUCTION_SETS="$$($(PY) -c "import torch; print(torch.backends.cpu.get_cpu_capability().lower())")" \
		$(PY) setup.py --quiet build --build-base $(SANITIZED) --build-lib $(SANITIZED)/lib
	env PYTHONPATH=$(SANITIZED)/lib ASAN_OPTIONS=detect_leaks=0 \
		LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
		$(VENV)/bin/pytest -q -p no:cacheprovider $(KERNEL_TESTS)

clean:
	rm -rf build dist *.egg-info torchnotes/*.so $(VENV)/built
