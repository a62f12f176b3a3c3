"""Where this installation's files are."""

import os
from pathlib import Path

from it3 import _C

cmake_prefix_path = str(Path(_C.__file__).parent)
"""What CMAKE_PREFIX_PATH needs for find_package(it3)."""
package_folder = os.path.dirname(__file__)
"""Where the Python files lie, as the code in them names its files; in an editable installation, not beside ``_C``."""
