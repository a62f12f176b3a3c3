#!/bin/sh
# Compares python/it3/_C.pyi with what pybind11-stubgen writes for the installed module; --write replaces it.
# Usage: check_stubs.sh BIN [--write]
set -eu
bin=$1
written=python/it3/_C.pyi
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
"$bin/python" -m pybind11_stubgen it3._C --exit-code --output-dir "$fresh" >"$fresh/log" 2>&1 || { cat "$fresh/log"; exit 1; }
if [ "${2:-}" = --write ]; then
  cp "$fresh/it3/_C.pyi" "$written"
elif ! diff -u "$written" "$fresh/it3/_C.pyi"; then
  echo "$written is out of date; run make stubs" >&2
  exit 1
fi
