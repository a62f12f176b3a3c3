"""Has a wheel require the torch that it is built against: a C++ extension fits no other. For tool.dynamic-metadata.

A source archive requires any torch that it can be built against.
"""

import tomllib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement


class Provider:
    """The hooks of scikit-build-core, which calls build_state() first."""

    def build_state(self, state: str) -> None:
        """Note what is being built."""
        self.is_archive = state == "sdist"

    def dynamic_metadata(self, _settings: Mapping[str, Any], _project: Mapping[str, Any]) -> dict[str, list[str]]:
        """Return the fields of [project] that are computed."""
        requires = tomllib.loads(Path("pyproject.toml").read_text())["build-system"]["requires"]
        (supported,) = (text for text in requires if text.startswith("torch"))
        if self.is_archive:
            return {"dependencies": [supported]}
        try:
            installed = version("torch")
        except PackageNotFoundError:
            raise SystemExit(
                f"it3 is built against the torch that is installed, and none is: install {supported}"
            ) from None
        # pip looks at this itself where it builds in isolation, and only there.
        if not Requirement(supported).specifier.contains(installed, prereleases=True):
            raise SystemExit(f"it3 builds against {supported}, but torch {installed} is installed")
        major, minor = installed.split(".")[:2]
        return {"dependencies": [f"torch=={major}.{minor}.*"]}

    def dynamic_wheel(self, _settings: Mapping[str, Any]) -> dict[str, bool]:
        """Return the fields that differ between a source archive and the wheels that are built from it."""
        return {"dependencies": True}
