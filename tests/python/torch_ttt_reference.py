"""torch-ttt's own engines. They import torchvision for augmentations, which are not needed here."""

import sys
from unittest.mock import MagicMock

_NAMES = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.models")
_MISSING = [name for name in _NAMES if name not in sys.modules]
sys.modules.update({name: MagicMock() for name in _MISSING})
try:
    from torch_ttt.engine.actmad_engine import ActMADEngine
    from torch_ttt.engine.eata_engine import EataEngine
    from torch_ttt.engine.it3_engine import IT3Engine as TorchTTTEngine
    from torch_ttt.engine.memo_engine import MemoEngine
    from torch_ttt.engine.tent_engine import TentEngine
finally:
    for _name in _MISSING:
        del sys.modules[_name]

__all__ = ["ActMADEngine", "EataEngine", "MemoEngine", "TentEngine", "TorchTTTEngine"]
