#!/bin/sh
# Builds it3 against the torch that is installed, runs the tests with its CUDA device, and times it there.
# Usage: tests/gpu/run.sh [build] [test] [bench]   (all three, if none is named)
# Needs no network: torch, torchvision, scikit-build-core, setuptools-scm, cmake, ninja, pytest, pandas, matplotlib, rich, optuna and CUDA's
# compiler must be installed. torch-ttt, which the parity tests and the benchmarks compare with, is looked for in $WHEELS (a folder of
# wheels) if it is not installed. Where CMake does not find the header-only libraries, CMAKE_PREFIX_PATH names their folder.
set -eu
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
site=$PWD/build/gpu/site
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
export IT3_ADAPT="$PWD/build/gpu/csrc/apps/it3-adapt"

build() {
  rm -rf "$site"
  if ! $python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch_ttt") is None)'; then
    $python -m pip install -q --no-index --no-deps --target "$site" "${WHEELS:?holds no wheel of torch-ttt}"/*.whl
  fi
  $python -m pip install -q --no-build-isolation --no-deps --target "$site" .
  cmake -S . -B build/gpu -G Ninja -DIT3_BUILD_APPS=ON -DPython_EXECUTABLE="$(command -v "$python")"
  cmake --build build/gpu
}

run_tests() {
  # it3 is not installed beside torch here, as in an environment, so that programs need to be told where torch's libraries are.
  torch=$($python -c 'import torch, pathlib; print(pathlib.Path(torch.__file__).parent)')
  export LD_LIBRARY_PATH="$torch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
  skipped="--deselect tests/python/test_installed.py::test_the_wheel_finds_its_torch_whatever_python_is_first"
  # The tests are many small operations, which many threads only slow down.
  OMP_NUM_THREADS=2 $python -m pytest -q -p no:cacheprovider $skipped
}

$python -c 'import torch; print("torch", torch.__version__, "on", torch.cuda.get_device_name())'
for stage in ${*:-build test bench}; do
  case $stage in
    build) build ;;
    test) run_tests ;;
    bench) $python benchmarks/speed.py --device cuda ;;
    *) echo "there is no stage '$stage'; the stages are build, test and bench" >&2 && exit 2 ;;
  esac
done
