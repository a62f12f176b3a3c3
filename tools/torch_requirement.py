"""Has a wheel require the torch that it is built against: a C++ extension fits no other. For tool.dynamic-metadata.

A source archive requires any torch that it can be built against.
"""

import tomllib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any


class Provider:
    """The hooks of scikit-build-core, which calls build_state() first."""

    def build_state(self, state: str) -> None:
        """Note what is being built."""
        self.is_archive = state == "sdist"

    def dynamic_metadata(self, _settings: Mapping[str, Any], _project: Mapping[str, Any]) -> dict[str, list[str]]:
        """Return the fields of [project] that are computed."""
        if self.is_archive:
            requires = tomllib.loads(Path("pyproject.toml").read_text())["build-system"]["requires"]
            return {"dependencies": [text for text in requires if text.startswith("torch")]}
        major, minor = version("torch").split(".")[:2]
        return {"dependencies": [f"torch=={major}.{minor}.*"]}

    def dynamic_wheel(self, _settings: Mapping[str, Any]) -> dict[str, bool]:
        """Return the fields that differ between a source archive and the wheels that are built from it."""
        return {"dependencies": True}
