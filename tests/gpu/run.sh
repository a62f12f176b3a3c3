#!/bin/sh
# Builds it3 against the torch that is installed, runs the Python tests on its CUDA device, and times it there.
# Needs no network: torch, scikit-build-core, cmake, ninja, pytest, pandas and rich must be installed. torch-ttt, which the parity
# tests and the benchmarks compare with, is looked for in $WHEELS (a folder of wheels) if it is not installed.
set -eu
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"

$python -c 'import torch; print("torch", torch.__version__, "on", torch.cuda.get_device_name())'
if ! $python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch_ttt") is None)'; then
  $python -m pip install -q --no-index --no-deps --target "$site" "${WHEELS:?holds no wheel of torch-ttt}"/*.whl
fi
$python -m pip install -q --no-build-isolation --no-deps --target "$site" .
# Where CMake does not find the header-only libraries of it3-adapt by itself, CMAKE_PREFIX_PATH names their folder.
cmake -S . -B build/gpu -G Ninja -DIT3_BUILD_APPS=ON -DPython_EXECUTABLE="$(command -v "$python")"
cmake --build build/gpu
export IT3_ADAPT="$PWD/build/gpu/csrc/apps/it3-adapt"
skipped=""
if ! $python -c 'import optuna' 2>/dev/null; then
  echo "Optuna is not installed here: tests/python/test_tuning.py is left out"
  skipped="--ignore=tests/python/test_tuning.py"
fi
# The tests are many small operations, which many threads only slow down.
OMP_NUM_THREADS=2 $python -m pytest -q -p no:cacheprovider $skipped
$python benchmarks/speed.py --device cuda
$python benchmarks/memory.py --device cuda
