"""Compares what it3 gives, and what it leaves alone, with the reference."""

import random
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from differential.case import arguments_of
from differential.naive import Refusal
from differential.naive_adapt import Result
from differential.rig import Difference, Rig


def same(actual: Any, expected: Any, what: str, rtol: float, atol: float) -> None:
    if not isinstance(expected, Tensor):
        if actual != expected:
            raise Difference(f"{what} is {actual!r}, not {expected!r}")
        return
    if not isinstance(actual, Tensor) or actual.shape != expected.shape:
        shape = tuple(actual.shape) if isinstance(actual, Tensor) else actual
        raise Difference(f"{what} has shape {shape}, not {tuple(expected.shape)}")
    if actual.requires_grad:
        raise Difference(f"{what} is not detached")
    a, e = actual.double(), expected.double()
    if not torch.allclose(a, e, rtol, atol, equal_nan=True):
        off = (a - e).abs().nan_to_num(torch.inf).max().item()
        values = f"{a.flatten()[:6].tolist()}, not {e.flatten()[:6].tolist()}"
        raise Difference(f"{what} is off by {off:.3g}: {values}", off)


def snapshot(*modules: nn.Module) -> dict[str, Any]:
    """All that a call must not change, apart from tensors' addresses: compared bit for bit."""
    seen: dict[str, Any] = {"random": random.getstate(), "torch.random": torch.get_rng_state().numpy().tobytes()}
    for i, module in enumerate(modules):
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            value = tensor.detach()
            seen[f"{i}.{name}"] = value.numpy().tobytes() if value.layout == torch.strided else value
            seen[f"{i}.{name} itself"] = (
                id(tensor) if not isinstance(module, torch.jit.ScriptModule) else 0,
                tensor.data_ptr(),
                tensor.stride(),
            )
            seen[f"{i}.{name} flags"] = (tensor.requires_grad, tensor.grad is None)
        if isinstance(module, torch.jit.ScriptModule):
            seen[f"{i} modes"] = [m.training for m in module.modules()]
            continue
        for name, child in module.named_modules():
            hooks = (len(child._forward_hooks), len(child._forward_pre_hooks), len(child._backward_hooks))
            names = [key for key in vars(child) if key != "_is_full_backward_hook"]
            seen[f"{i}.{name} modes and hooks"] = (child.training, hooks, names, "forward" in vars(child))
    return seen


def unchanged(before: dict[str, Any], after: dict[str, Any], but: Callable[[str], bool] = lambda _: False) -> None:
    for name in {**before, **after}:
        if not but(name) and before.get(name) != after.get(name):
            raise Difference(f"{name} changed")


def diverges(expected: Any) -> bool:
    """Whether predictions grow so far that rounding decides."""
    return isinstance(expected, Result) and not bool((expected.first.abs() < 1e6).all())


def agree(rig: Rig, actual: Any, expected: Any, what: str = "") -> str:
    """Compare results, or refusals. Gives what was agreed on, for the tally."""
    if diverges(expected):
        return "diverges"
    if isinstance(expected, Refusal):
        if not isinstance(actual, ValueError) or not re.search(str(expected), str(actual), re.IGNORECASE):
            raise Difference(f"{what}right is a ValueError with {str(expected)!r}, but there is {actual!r:.400}")
        return f"refused: {expected}"
    if isinstance(actual, ValueError):
        if rig.leaves_layouts_open and "layout" in str(actual):
            return "refused: layout"
        raise Difference(f"{what}there is a result, but it3 raises {actual!s:.600}") from actual
    if isinstance(expected, Tensor):
        same(actual, expected, what, *rig.tolerance)
        return "agreed"
    for name in ("prediction", "first", "second", "losses", "uncertainty", "adapted_samples", "recovered"):
        value = getattr(expected, name)
        if name == "losses" and value.numel() == 0:
            same(len(actual.losses), len(value), f"{what}the number of losses", 0, 0)
            continue
        same(getattr(actual, name), value, f"{what}{name}", *rig.tolerance)
    if actual.losses.dim() == 1:  # each sample's own weights are not told
        adapted = actual.state_dict()
        for name, value in rig.naive.state_dict().items():
            moved = name in expected.state
            right = expected.state[name] if moved else value.detach()
            same(adapted[name], right, f"{what}adapted {name}", *(rig.tolerance if moved else (1e-7, 0)))
    return "agreed"


def left_alone(rig: Rig, index: int, inputs: Any) -> None:
    """The caller's tensors are as before, or as after one plain call of a model that writes to them."""
    for (name, _, _), now in zip(
        rig.case.inputs,
        inputs.values() if isinstance(inputs, dict) else inputs if isinstance(inputs, tuple | list) else [inputs],
        strict=True,
    ):
        value = arguments_of(rig.case, index)[name]
        if isinstance(value, Tensor):
            if name == "x" and "x.mul_(0.5)" in rig.case.source:
                value = value * 0.5
            same(now.detach(), value, f"the caller's {name}", 0, 0)
