"""Devices by their names."""

import torch

from it3.command_line.wrong_usage import WrongUsageError


def device_named(name: str | None) -> torch.device | None:
    """Return a device, or None for no name. Raises WrongUsageError if there is no such device here."""
    if name is None:
        return None
    kind, colon, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not number.isdecimal()):
        raise WrongUsageError(f"a device is cpu, cuda, or cuda: and a number, not {name!r}")
    count = torch.cuda.device_count()
    if kind == "cuda" and int(number or 0) >= count:
        raise WrongUsageError(
            f"there is no device {name}; this machine, with this build of torch, has {count} CUDA devices"
        )
    return torch.device(name)
