# Everything runs in .venv, which the first target that needs it makes: only Python >= 3.11 and a network are assumed.
# Set PYTHON to choose the interpreter, WORKERS to choose how many tests run side by side.

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
INSTALLED := .venv/.installed
NATIVE := $(wildcard CMakeLists.txt) $(shell find kernels -name "*.cpp" -o -name "*.hpp" -o -name "*.h")

MEMORY := MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592

# The builds that cmake and pip start take no part in the job server of a parallel make.
unexport MAKEFLAGS

.PHONY: help install demo lra-small hyena bench gpu test test-slow test-install test-ecosystem test-newest sanitize neon docs wheel check lint format

help:
	@echo "make demo    train two models on ListOps, save, load back, write a report (under 6 minutes on 2 cores)"
	@echo "make lra-small  fourteen mixers on five reduced tasks (under two hours on 2 cores; goes on if killed)"
	@echo "make hyena   train a Hyena language model, distil it, compare and time its ways of writing (15 to 20 minutes)"
	@echo "make bench   time the ops against their peers, after a check of their results"
	@echo "make gpu     check and time the Triton kernels on a GPU (under 10 minutes, no network; interpreted without)"
	@echo "make test    the tests, but those marked slow"
	@echo "make test-slow  the slow ones: compilers and exports over all options of all mixers"
	@echo "make test-install  a plain install, and one whose compiler fails, each in an environment of its own"
	@echo "make test-ecosystem  the models in peft, trl, lm-evaluation-harness, sentence-transformers, torchao and accelerate"
	@echo "make test-newest  all tests with the newest releases that pyproject.toml allows"
	@echo "make sanitize the kernels' tests under the sanitizers of the compiler"
	@echo "make neon    the kernels for 64-bit ARM, by a cross compiler, into build/neon"
	@echo "make docs    the documentation site, into build/site; broken links and references fail"
	@echo "make wheel   a wheel for this machine, installed without a compiler and tried, into dist"
	@echo "make check   lint, then all tests"
	@echo "make lint    ruff, the format check, mypy"
	@echo "make format  let ruff rewrite what it can"
	@echo "make install only make .venv with everything in it"

install: $(INSTALLED)

# torch goes first and alone, pinned: whatever is resolved later finds it there and fetches no other build of it.
$(INSTALLED): pyproject.toml constraints.txt $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "seqconv needs Python 3.11 or newer: set PYTHON")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,triton]"
	@touch $@

demo: $(INSTALLED)
	$(BIN)/python -m lra demo

# The allocator keeps memory: returning it to the system and taking it again at every step costs page faults.
lra-small: $(INSTALLED)
	OMP_NUM_THREADS=1 $(MEMORY) $(BIN)/python -m lra small --results benchmarks/results --page docs/lra.md

hyena: $(INSTALLED)
	$(BIN)/python examples/hyena_distillation.py

# The peers stay outside of .venv: which packages transformers finds installed changes what it runs.
outputs/peers: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --no-deps --target $@ mambapy flash-linear-attention fla-core

bench: $(INSTALLED) outputs/peers
	PYTHONPATH=outputs/peers $(BIN)/python -m benchmarks

# Any Python that has torch serves: a machine with a GPU has its own, and maybe no network to make .venv from. In parts:
# make gpu GPU="--part checks --minutes 4", then make gpu GPU="--part times"; PYTHONPATH=outputs/peers adds fla.
ifeq ($(shell $(PYTHON) -c "import torch, triton, transformers, jaxtyping" 2>/dev/null && echo found),found)
gpu:
	PYTHONPATH=kernels:$$PYTHONPATH $(PYTHON) -m benchmarks.gpu $(GPU)
else
gpu: $(INSTALLED)
	$(BIN)/python -m benchmarks.gpu --out outputs $(GPU)
endif

# One thread per worker: the tensors of the tests are too small to share.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -v -n $(WORKERS) --dist worksteal --no-header -rfEs -m "not slow"

test-slow: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -v -n $(WORKERS) --dist worksteal --no-header -rfEs -m slow

test-install: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -v --no-header -m install tests/test_install.py

# On top of .venv, whose packages it sees: a tool that wants another torch fails to install instead of replacing it.
ECOSYSTEM := peft trl lm-eval sentence-transformers torchao onnx onnxscript onnxruntime av
outputs/ecosystem: $(INSTALLED)
	$(BIN)/python -m venv $@
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
		$$($@/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/base.pth
	$@/bin/python -m pip install --quiet -c constraints.txt $(ECOSYSTEM)

test-ecosystem: outputs/ecosystem
	OMP_NUM_THREADS=1 PYTHONPATH=.:kernels ECOSYSTEM_TABLE=docs/ecosystem.md \
		outputs/ecosystem/bin/python -m pytest -o addopts=--import-mode=importlib -W default -v -rfEs tests/ecosystem

# The newest releases that pyproject.toml allows, in an environment of their own: what users will get next.
test-newest:
	$(PYTHON) -m venv outputs/newest
	outputs/newest/bin/python -m pip install --quiet --upgrade torch
	outputs/newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager -e ".[dev,triton]"
	OMP_NUM_THREADS=1 outputs/newest/bin/python -m pytest -W default -n $(WORKERS) --dist worksteal --no-header -rfEs

# As the compiler wants it: its runtime before all else, and the C++ runtime before Python loads either.
RUNTIMES = $(shell $(or $(CXX),c++) -print-file-name=libasan.so) $(shell $(or $(CXX),c++) -print-file-name=libstdc++.so.6)

# Only what this processor can run: the compiler takes a minute for each instruction set.
WIDE = $(if $(shell grep -m 1 avx512vl /proc/cpuinfo 2>/dev/null),ON,OFF)

sanitize: $(INSTALLED)
	$(BIN)/cmake -S . -B build/sanitize -DSEQCONV_SANITIZE=ON -DSEQCONV_AVX512=$(WIDE) \
		-DPython_EXECUTABLE=$(abspath $(BIN))/python
	$(BIN)/cmake --build build/sanitize -j $(WORKERS)
	LD_PRELOAD="$(RUNTIMES)" ASAN_OPTIONS=detect_leaks=0 OMP_NUM_THREADS=2 \
		$(BIN)/python tests/kernels/sanitized.py build/sanitize

# Sphinx, whose notation the docstrings have. On top of .venv, since it imports what it documents.
outputs/docs: $(INSTALLED)
	$(BIN)/python -m venv $@
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
		$$($@/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/base.pth
	$@/bin/python -m pip install --quiet -c constraints.txt sphinx furo myst-parser sphinx-copybutton

docs: outputs/docs
	PYTHONPATH=.:kernels $</bin/python docs/site/build.py build/docs
	PYTHONPATH=.:kernels $</bin/python -m sphinx -q -W --keep-going -b html build/docs build/site
	@echo "build/site/index.html"

# Into an environment that sees the packages of .venv, but neither this checkout nor a compiler.
wheel: $(INSTALLED)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/python -m venv --clear outputs/wheel
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
		$$(outputs/wheel/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/base.pth
	CXX=false outputs/wheel/bin/python -m pip install --quiet --no-deps --ignore-installed dist/seqconv-*.whl
	cd outputs/wheel && bin/python -P $(abspath tests/smoke.py) && bin/seqconv doctor

CROSS := aarch64-linux-gnu-g++

neon: $(INSTALLED)
	@command -v $(CROSS) >/dev/null || { echo "make neon needs $(CROSS): apt-get install g++-aarch64-linux-gnu"; exit 1; }
	$(BIN)/cmake -S . -B build/neon -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
		-DCMAKE_CXX_COMPILER=$(CROSS) -DPython_EXECUTABLE=$(abspath $(BIN))/python
	$(BIN)/cmake --build build/neon -j $(WORKERS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
