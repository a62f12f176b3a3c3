#!/bin/sh
# Fails for a source file of more than 400 lines: a sign that it holds more than one idea.
set -eu
git ls-files '*.py' '*.cpp' '*.h' '*.cmake' '*CMakeLists.txt' | xargs wc -l |
  awk '$2 != "total" && $1 > 400 { print $2 " has " $1 " lines, over 400"; long = 1 } END { exit long }'
