#!/bin/sh
# Builds everything with sanitizers, and runs the C++ tests, and with the extension and it3-adapt so built the Python tests.
# Usage: tools/run_sanitized.sh address|thread [arguments of pytest]   (`make sanitize` sets .venv up and runs both)
# address: AddressSanitizer and UndefinedBehaviorSanitizer, on all tests but those that measure or limit memory.
# thread: ThreadSanitizer, on the tests of threads.
# With arguments, pytest runs with these, and the C++ tests do not. Needs a torch without CUDA: NVIDIA's driver does not
# start under AddressSanitizer.
set -eu
cd "$(dirname "$0")/.."
bin=$PWD/.venv/bin
kind=${1:-}
[ $# -gt 0 ] && shift
case $kind in
  address)
    preset=asan
    flags="-fsanitize=address,undefined -fno-sanitize=vptr"
    runtimes="libasan.so libubsan.so"
    # These two build the library once more, without sanitizers.
    tests="tests/python --ignore tests/python/test_installed.py --ignore tests/python/test_docs.py"
    # Tests ask for more memory than there is, and preload a library of their own.
    export ASAN_OPTIONS=allocator_may_return_null=1:verify_asan_link_order=0:detect_odr_violation=0
    export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
    export LSAN_OPTIONS="suppressions=$PWD/tools/lsan_suppressions.txt:print_suppressions=0"
    ;;
  thread)
    preset=tsan
    flags=-fsanitize=thread
    runtimes=libtsan.so
    tests="tests/python/test_engine_threads.py tests/python/test_eager_threads.py
      tests/python/test_processes.py::test_eight_threads_share_an_engine
      tests/python/test_processes.py::test_two_threads_use_two_engines_around_one_model"
    export TSAN_OPTIONS="halt_on_error=1:second_deadlock_stack=1:suppressions=$PWD/tools/tsan_suppressions.txt"
    ;;
  *)
    echo "usage: tools/run_sanitized.sh address|thread [arguments of pytest]" >&2
    exit 2
    ;;
esac
PATH=$bin:$PATH
cmake --preset $preset -DPython_EXECUTABLE="$bin/python"
cmake --build --preset $preset
cmake --install build/$preset --prefix build/$preset/site
cp -r python/it3/. build/$preset/site/it3/
[ $# -gt 0 ] || ctest --preset $preset --parallel "$(nproc)"

preload=""
for library in $runtimes libstdc++.so.6; do
  preload="$preload $("${CXX:-g++}" -print-file-name=$library)"
done
export OMP_NUM_THREADS=1 PYTHONPATH="$PWD/build/$preset/site" IT3_ADAPT="$PWD/build/$preset/csrc/apps/it3-adapt"
export CXXFLAGS=$flags # of the programs that tests build against the library
# shellcheck disable=SC2086  # several arguments
[ $# -gt 0 ] || set -- $tests
# Python and torch keep memory until the end, so leaks are looked for in the C++ tests alone.
ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_leaks=0 LD_PRELOAD=$preload \
  exec python -m pytest -q -p no:cacheprovider -m "not memory" "$@"
