#!/usr/bin/env bash
# clang-tidy over csrc: tools/run_tidy.sh BIN [FILE...], where BIN holds cmake, python and clang-tidy.
#
# Most of the time would go into torch's headers, which clang-tidy cannot take precompiled. It can take them as a
# module, which it builds once: what CMake would precompile is declared as one. Without FILE, it reads several sources as
# one, as a unity build compiles them.
set -euo pipefail
bin=$(realpath "$1") && shift
unity=$([ $# -gt 0 ] && echo OFF || echo ON)
build=$PWD/build/tidy
"$bin/cmake" -S . -B "$build" -G Ninja -DIT3_BUILD_PYTHON=ON -DIT3_BUILD_APPS=ON -DPython_EXECUTABLE="$bin/python" \
  -DCMAKE_CXX_COMPILER_LAUNCHER= -DCMAKE_UNITY_BUILD="$unity" > /dev/null
find "$build" -name cmake_pch.hxx | while read -r header; do
  echo "module precompiled_$(basename "$(dirname "$header")" .dir) { header \"$header\" export * }"
done > "$build/module.map"
options=(
  -fmodules -fcxx-modules -fno-implicit-module-maps
  "-fmodules-cache-path=$build/modules" "-fmodule-map-file=$build/module.map"
)
[ $# -gt 0 ] || mapfile -t files < <(sed -n 's/.*"file": "\(.*\.\(cpp\|cxx\)\)".*/\1/p' "$build/compile_commands.json" |
  grep -v cmake_pch | sort -u)
printf '%s\0' "${@:-${files[@]}}" |
  xargs -0 -P "$(nproc)" -n 1 "$bin/clang-tidy" -quiet --config-file=.clang-tidy -p "$build" "${options[@]/#/--extra-arg=}"
