"""Where this installation's C++ files are."""

from pathlib import Path

from it3 import _C

cmake_prefix_path = str(Path(_C.__file__).parent)
"""What CMAKE_PREFIX_PATH needs for find_package(it3)."""
