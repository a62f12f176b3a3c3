"""A plugin of pytest, for torchvision beside torch for CPUs; `make frameworks` names it."""

from differential.zoo_packages import operators_of_torchvision

operators_of_torchvision()
