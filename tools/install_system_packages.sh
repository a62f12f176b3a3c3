#!/bin/sh
# Installs the Debian packages that it3 is built with, or the data that its studies use, or what reads the C++ headers for
# its documentation, or the browser that looks at its pages, or the libraries of its server, those that are missing.
# Usage: install_system_packages.sh PYTHON [--studies | --docs | --browser | --server]
set -eu
python=$1

if ! command -v "$python" >/dev/null || ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "it3 needs Python 3.11 or newer: install it, or name it by 'make PYTHON=...'." >&2
  exit 1
fi

missing=""
command -v g++ >/dev/null || missing="$missing g++"
"$python" -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
"$python" -c 'import os, sysconfig as s; os.stat(os.path.join(s.get_path("include"), "Python.h"))' 2>/dev/null ||
  missing="$missing python3-dev"
while read -r header package; do
  [ -e "/usr/include/$header" ] || missing="$missing $package"
done <<EOT
gtest/gtest.h libgtest-dev
CLI/CLI.hpp libcli11-dev
nlohmann/json.hpp nlohmann-json3-dev
boost/timer/progress_display.hpp libboost-dev
EOT
case ${2:-} in
  --studies) [ -d /usr/share/datasets/fashion-mnist ] && missing="" || missing=" dataset-fashion-mnist" ;;
  --docs) command -v doxygen >/dev/null && missing="" || missing=" doxygen" ;;
  --browser) command -v chromium >/dev/null && missing="" || missing=" chromium" ;;
  --server)
    missing=""
    command -v pkg-config >/dev/null || missing="$missing pkg-config"
    [ -e /usr/include/httplib.h ] || missing="$missing libcpp-httplib-dev"
    [ -e /usr/include/prometheus/registry.h ] || missing="$missing prometheus-cpp-dev"
    ;;
esac
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq
  # shellcheck disable=SC2086 # a list
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
else
  echo "Packages that are needed are missing here. Install them:  sudo apt-get install$missing" >&2
  exit 1
fi
