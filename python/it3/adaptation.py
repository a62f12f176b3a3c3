"""What one adaptation came to."""

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from it3 import _C
from it3.export import (
    check_close,
    complete_file,
    copy_of,
    first_tensor,
    to_exported_program,
    to_torchscript,
)


@dataclass(frozen=True)
class Adaptation:
    """The result of :meth:`it3.IT3Engine.adapt`. Every tensor is detached.

    Attributes
    ----------
    prediction
        The answer: the adapted network's y0, or what the option ``prediction`` says.
    first
        The adapted network's first prediction, y0.
    second
        The adapted network's second prediction, y1 = f(x | y0); the prediction's shape.
    losses
        The distance between the two before each step, (steps,); with ``per_sample`` of each sample, (steps, B).
    adapted_samples
        Which samples adapted, (B,) of booleans; None without the option ``threshold``.
    recovered
        Whether the network had collapsed and went back to the start before this batch.
    """

    prediction: Tensor
    first: Tensor
    second: Tensor
    losses: Tensor
    adapted_samples: Tensor | None
    recovered: bool
    _weights: dict[str, Tensor]
    _source: nn.Module
    _has_neutral: bool
    _prediction_layout: _C.Layout

    @cached_property
    def uncertainty(self) -> Tensor:
        """The Euclidean distance of y1 from y0 for each sample, (B,)."""
        return _C.sample_distances(self.second, self.first, self._prediction_layout.batch_of(self.first.dim()))

    @property
    def steps(self) -> int:
        """The number of optimiser steps done."""
        return len(self.losses)

    def state_dict(self) -> dict[str, Tensor]:
        """Give the model's state dict with the adapted weights in it, all copies.

        Raises
        ------
        ValueError
            With ``per_sample``, where each sample had weights of its own, which are not kept.
        """
        if self.losses.dim() > 1:
            raise ValueError("with per_sample each sample had weights of its own, which are not kept; adapt one alone")
        state = {name: value.detach().clone() for name, value in self._source.state_dict().items()}
        # The core names a tied parameter once, a state dict at each of its places.
        places: dict[int, list[str]] = {}
        for name, parameter in self._source.named_parameters(remove_duplicate=False):
            places.setdefault(id(parameter), []).append(name)
        for names in places.values():
            adapted = next((self._weights[name] for name in names if name in self._weights), None)
            if adapted is not None:
                state.update({name: adapted.clone() for name in names})
        return state

    def model(self) -> nn.Module:
        """Make a copy of the model with the adapted weights.

        Raises
        ------
        ValueError
            If the engine has a neutral signal: the plain model, into which nothing is injected, predicts otherwise.
        """
        if self._has_neutral:
            raise ValueError(
                "this engine predicts by injecting a neutral signal, which the plain model does not; save the engine, "
                "or take state_dict()"
            )
        adapted = copy_of(self._source)
        adapted.load_state_dict(self.state_dict())
        return adapted

    def save(
        self,
        path: str | os.PathLike[str],
        example_inputs: Any,
        method: Literal["script", "trace", "export"] = "script",
    ) -> None:
        """Write the adapted model to a file that needs no it3 to run.

        Parameters
        ----------
        path
            The file, which appears when it is complete: usually .pt for TorchScript, read by ``torch.jit.load``, and
            .pt2 for a program of ``torch.export``, read by ``torch.export.load``.
        example_inputs
            What the model is called with. The export is compared with the adapted model on them.
        method
            "script" compiles the model's source to TorchScript, "trace" records one call; a TorchScript model is
            written as it is. "export" is torch.export, for eager models.

        Raises
        ------
        ValueError
            For a model that cannot be exported so, and if the exported one gives other results.
        """
        if method not in ("script", "trace", "export"):
            raise ValueError(f"method must be 'script', 'trace' or 'export', not {method!r}")
        model = self.model().eval()
        args, kwargs = _C.arguments_of(example_inputs)
        with torch.no_grad():
            expected = first_tensor(model(*args, **kwargs))
        exported: torch.jit.ScriptModule | torch.export.ExportedProgram
        try:
            if method == "export":
                exported = to_exported_program(model, example_inputs)
            else:
                exported = to_torchscript(model, example_inputs, method)
        except RuntimeError as error:
            why = str(error).strip().splitlines()[0]
            raise ValueError(f"the model cannot be exported by method={method!r}; try another: {why}") from error
        call = exported if isinstance(exported, torch.jit.ScriptModule) else exported.module()
        with torch.no_grad():
            actual = first_tensor(call(*args, **kwargs))
        check_close(actual, expected, f"exported by {method!r}, the model gives other predictions")
        with complete_file(path) as file:
            if isinstance(exported, torch.jit.ScriptModule):
                exported.save(file)
            else:
                torch.export.save(exported, file)
