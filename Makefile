# make demo | test | fuzz | conformance | lint | bench-cpu | bench-partition | bench-serving |
# bench-controller | picture | clean. Each sets up .venv by itself; nothing is installed elsewhere,
# but for the Chromium that tests and pictures of pages need: see the target browser.
# Needs python3 (3.10-3.12) with venv, a C++17 compiler and make; the rest comes from pip.
#
#   make test PYTHON=python3.12            another interpreter, for a new .venv
#   make test SANITIZERS=                  C++ tests without the sanitizer builds
#   make test PYTEST_ARGS="-k cli -x"      only some of the Python tests
#   make bench-cpu BENCH_ARGS=--quick      minutes instead of half an hour; --help for more
#   make bench-partition BENCH_ARGS=--quick  minutes instead of hours; --help for more
#   make bench-serving BENCH_ARGS=--quick  minutes; --full for everything; --help for more

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= $(shell nproc)
SANITIZERS ?= address thread
PYTEST_ARGS ?=
BENCH_ARGS ?=
CORRUPTION_ARGS ?=
EXTRAS := compile,train,test,bench,lint,dev
# Without importing tvm_ffi, which imports torch.
FIND_TVM_FFI = 'import importlib.util as u; print(u.find_spec("tvm_ffi").submodule_search_locations[0])'

CXX_FILES = $(shell find passes runtime tests/cpp -name '*.cc' -o -name '*.h')
NATIVE_INPUTS := setup.py CMakeLists.txt $(wildcard cmake/*.cmake) \
  $(shell find passes runtime -name '*.cc' -o -name '*.h')

# cmake and ninja of the environment; pip's own build of the package is held to the same versions.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)

.PHONY: demo test pytest fuzz conformance ctest lint format bench-cpu bench-partition bench-serving \
	bench-controller picture browser setup clean
.DEFAULT_GOAL := test

# Two makes in a row, because installing also builds the native module: the second sees that.
setup:
	@$(MAKE) -s --no-print-directory $(VENV)/.installed
	@$(MAKE) -s --no-print-directory $(VENV)/.native

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v <= (3, 12) or \
	  sys.exit("top_tvm is tested with Python 3.10-3.12, this is %d.%d: make PYTHON=..." % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[$(EXTRAS)]'
	@touch $(VENV)/.installed $(VENV)/.native

# After a change of the C++ sources: an incremental build in place.
$(VENV)/.native: $(NATIVE_INPUTS) | $(VENV)/.installed
	$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

demo: setup
	$(BIN)/python benchmarks/demo.py

bench-cpu: setup
	$(BIN)/python benchmarks/cpu $(BENCH_ARGS)

bench-partition: setup
	$(BIN)/python benchmarks/partition.py $(BENCH_ARGS)

bench-serving: setup
	$(BIN)/python benchmarks/serving.py $(BENCH_ARGS)

bench-controller: setup
	$(BIN)/python benchmarks/controller.py --headroom $(BENCH_ARGS)

# The pictures of the README, from a page that is made here and now.
picture: setup browser
	PYTHONPATH=tests $(BIN)/python benchmarks/picture.py

test: setup browser ctest pytest

pytest: setup browser
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# A browser for the tests of pages, from the system's packages where we may install those. Without
# one the other tests still run, so this only says what is missing.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
	command -v google-chrome >/dev/null || { \
	  [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "installing chromium" && \
	  apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y chromium >/dev/null; \
	} || echo "tests of pages will fail: install Chromium, e.g. sudo apt-get install chromium"

# The property tests on examples never tried before; what fails is kept and tried first next time.
# Then damaged files, of which `make test` tries fewer: other ones with CORRUPTION_ARGS="--first N".
fuzz: setup
	$(BIN)/python -m pytest --hypothesis-profile=fuzz -m hypothesis $(PYTEST_ARGS)
	$(BIN)/python tests/corruption.py top $(CORRUPTION_ARGS)
	$(BIN)/python tests/corruption.py mix $(CORRUPTION_ARGS)
	$(BIN)/python tests/corruption.py onnx $(CORRUPTION_ARGS)

# All of ONNX's cases of single operators; fails if one gives wrong numbers or crashes.
conformance: setup
	$(BIN)/python tests/conformance.py --table docs/conformance.md --only wrong,crashed

# The C++ tests once as they are and once per sanitizer.
ctest: $(addprefix ctest-,plain $(SANITIZERS))

# A sanitizer's shadow memory can collide with a strongly randomised address space, so randomisation
# is switched off where the kernel permits that.
ctest-%: setup
	cmake -S . -B build/cpp-$* -G Ninja -DTOP_TVM_TESTS=ON -DTOP_TVM_SANITIZE=$(filter-out plain,$*) \
	  -DCMAKE_BUILD_TYPE=RelWithDebInfo -DTVM_FFI_DIR="$$($(BIN)/python -c $(FIND_TVM_FFI))" \
	  -DONEDNN_PREFIX=$(if $(wildcard $(VENV)/include/oneapi/dnnl/dnnl.hpp),$(CURDIR)/$(VENV))
	cmake --build build/cpp-$*
	$$(setarch -R true 2>/dev/null && echo setarch -R) \
	  ctest --test-dir build/cpp-$* --output-on-failure

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

clean:
	rm -rf $(VENV) build dist .demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -rf python/*.egg-info python/top_tvm/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
