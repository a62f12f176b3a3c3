"""Where compiled programs are kept, if nothing else is said."""

import os
from pathlib import Path


def default_cache() -> Path:
    """Return the folder of the environment variable ``IT3_CACHE_DIR``, else ``it3`` in the user's cache folder."""
    given = os.environ.get("IT3_CACHE_DIR")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "it3"
