"""it3's engine in the registry of torch-ttt, from which programs take engines by name.

Importing this module registers :class:`it3.IT3Engine` as "it3", beside torch-ttt's own engine, which is called "ittt".
"""

from it3.engine import IT3Engine

try:
    from torch_ttt.engine.base_engine import BaseEngine
    from torch_ttt.engine_registry import EngineRegistry
except ModuleNotFoundError as error:
    if not (error.name or "").startswith("torchvision"):
        raise
    raise ImportError(
        "torch-ttt 0.0.2 needs torchvision, which it does not name as a dependency; install the torchvision that fits "
        "your torch, as by pip install 'it3[torch-ttt]'"
    ) from error

__all__ = ["NAME"]

NAME = "it3"
"""What the engine is registered as."""

BaseEngine.register(IT3Engine)  # an abstract base class takes others for its own, which the registry asks for
if EngineRegistry._registry.get(NAME) is not IT3Engine:  # as a program may have done it itself
    EngineRegistry.register(NAME)(IT3Engine)
