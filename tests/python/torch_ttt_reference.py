"""torch-ttt's own engine. Its package imports torchvision for engines that are not needed here."""

import sys
from unittest.mock import MagicMock

_NAMES = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.models")
_MISSING = [name for name in _NAMES if name not in sys.modules]
sys.modules.update({name: MagicMock() for name in _MISSING})
try:
    from torch_ttt.engine.it3_engine import IT3Engine as TorchTTTEngine
finally:
    for _name in _MISSING:
        del sys.modules[_name]

__all__ = ["TorchTTTEngine"]
