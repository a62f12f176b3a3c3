"""What one adaptation came to."""

import copy
import io
import os
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from it3 import _C
from it3.cutting.export import (
    check_same,
    check_same_writes,
    copy_of,
    move_weights,
    read_back,
    to_exported_program,
    to_torchscript,
)
from it3.support.kept import KeptRandomState, counts_writes

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, eq=False, repr=False)
class Adaptation:
    """The result of :meth:`it3.IT3Engine.adapt`. Every tensor is detached. Two are equal if they are one.

    Attributes
    ----------
    prediction
        The answer: the adapted network's y0, or what the option ``prediction`` says.
    first
        The adapted network's first prediction, y0.
    second
        The adapted network's second prediction, y1 = f(x | y0); the prediction's shape.
    losses
        The distance between the two before each step, (steps,). With ``per_sample`` (steps, B): a sample that took
        fewer steps repeats its last loss, and has 0 if it took none.
    adapted_samples
        Which samples adapted, (B,) of booleans; None without the option ``threshold``.
    recovered
        Whether the network had collapsed and went back to the start before this batch.

    Examples
    --------
    >>> adaptation = engine.adapt(x, num_steps=3, threshold=None)
    >>> adaptation.steps, adaptation.prediction.shape
    (3, torch.Size([32, 1]))
    >>> bool(adaptation.loss == adaptation.losses[-1])
    True
    >>> torch.equal(adaptation.uncertainty, (adaptation.second - adaptation.first).norm(dim=1))
    True
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
    _feeds_probabilities: bool
    _marks: "dict[str, _Mark]" = field(init=False)

    def __post_init__(self) -> None:
        """Note what the tensors of the model that did not adapt are like."""
        with _C.ModelHold(self._source):
            read = [] if self.losses.dim() > 1 else self._unadapted()
            object.__setattr__(self, "_marks", {name: _Mark(tensor) for name, tensor in read if not _is_lazy(tensor)})

    def __repr__(self) -> str:
        """Return in short what it came to."""
        shape, dtype = tuple(self.prediction.shape), str(self.prediction.dtype).removeprefix("torch.")
        said = f"prediction: {shape} of {dtype}, steps: {self.steps}"
        if self.steps:
            means = self._mean_losses()
            said += f", loss: {float(means[0]):.4g} to {float(means[-1]):.4g}"
        if self.adapted_samples is not None:
            said += f", adapted samples: {int(self.adapted_samples.sum())} of {self.adapted_samples.numel()}"
        return f"Adaptation({said}{', recovered' if self.recovered else ''})"

    @cached_property
    def uncertainty(self) -> Tensor:
        """How little sure the adapted network is of each sample, (B,); see :meth:`it3.IT3Engine.uncertainty`."""
        return _C.sample_distances(self.second, self.first, self._prediction_layout, self._feeds_probabilities)

    @property
    def loss(self) -> Tensor:
        """The loss before the last step: a scalar, or (B,) with ``per_sample``; 0 where there was no step."""
        return self.losses[-1] if self.steps else self.losses.new_zeros(self.losses.shape[1:])

    @property
    def steps(self) -> int:
        """The number of optimizer steps done."""
        return len(self.losses)

    def _mean_losses(self) -> Tensor:
        """Return the loss before each step, (steps,): with ``per_sample`` the mean over the samples that adapted."""
        losses = self.losses.double()
        if losses.dim() == 1:
            return losses
        return (losses if self.adapted_samples is None else losses[:, self.adapted_samples]).mean(1)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the model's state dict with the adapted weights in it, all copies.

        What did not adapt is read from the model, which must not have changed there since.

        Raises
        ------
        ValueError
            With ``per_sample``, where each sample had weights of its own, which are not kept; and if tensors of the
            model that did not adapt have changed since the adaptation.

        Examples
        --------
        >>> list(adaptation.state_dict())
        ['0.weight', '0.bias', '2.weight', '2.bias']
        """
        if self.losses.dim() > 1:
            raise ValueError(
                "with per_sample each sample has adapted weights of its own, which are not kept; adapt one alone"
            )
        with _C.ModelHold(self._source):
            self._check_unchanged()
            own = self._source.state_dict()
            tensors = {name: value.detach() for name, value in own.items() if isinstance(value, Tensor)}
            copies = _C.copies_with_shared_memory(list(tensors.values()))
        state = {name: copy.deepcopy(value) for name, value in own.items() if name not in tensors}
        state.update(zip(tensors, copies, strict=True))
        for names in self._places():
            adapted = next((self._weights[name] for name in names if name in self._weights), None)
            for name in names if adapted is not None else []:
                state[name].copy_(adapted)  # which what lies over the same memory follows
        return {name: state[name] for name in own}

    def _places(self) -> list[list[str]]:
        """Return the names of each parameter: the core names a tied one once, a state dict at each of its places."""
        parameters = list(self._source.named_parameters(remove_duplicate=False))
        places: dict[int, list[str]] = {}
        for name, parameter in parameters:
            places.setdefault(id(parameter), []).append(name)
        return list(places.values())

    def _unadapted(self) -> list[tuple[str, Tensor]]:
        """Return the model's tensors whose adapted values are not known."""
        adapted = {name for names in self._places() if any(n in self._weights for n in names) for name in names}
        parameters = [(name, p) for name, p in self._source.named_parameters() if name not in adapted]
        return [*parameters, *self._source.named_buffers()]

    def _check_unchanged(self) -> None:
        now = {name: tensor for name, tensor in self._unadapted() if not _is_lazy(tensor)}
        changed = [name for name, mark in self._marks.items() if name not in now or not mark.fits(now[name])]
        changed += [name for name in now if name not in self._marks]
        if changed:
            some = ", ".join(map(repr, changed[:3])) + (", ..." if len(changed) > 3 else "")
            raise ValueError(
                f"the model's {some} changed since this adaptation, which holds copies of what it adapted only; call "
                "state_dict(), model() or save() before the model is trained or loaded"
            )

    def model(self) -> nn.Module:
        """Make a copy of the model with the adapted weights.

        Raises
        ------
        ValueError
            If the engine has a neutral signal: the plain model, into which nothing is injected, predicts otherwise. And
            see :meth:`state_dict`.

        Examples
        --------
        >>> adapted = adaptation.model()
        >>> torch.allclose(adapted(x), adaptation.prediction)
        True
        """
        if self._has_neutral:
            raise ValueError(
                "this engine predicts by injecting a neutral signal, which the plain model does not; save the engine, "
                "or take state_dict()"
            )
        state = self.state_dict()
        with _C.ModelHold(self._source):
            adapted = copy_of(self._source)
        adapted.load_state_dict(state)
        return adapted

    def save(
        self,
        path: str | os.PathLike[str],
        example_inputs: Any,
        method: Literal["script", "trace", "export", "aoti"] = "script",
    ) -> None:
        """Write the adapted model to a file that needs no it3 to run.

        Parameters
        ----------
        path
            The file, which appears when it is complete: usually .pt for TorchScript, read by ``torch.jit.load``; .pt2
            for a program of ``torch.export``, read by ``torch.export.load``; and .pt2 for a package of AOTInductor,
            read by ``torch._inductor.aoti_load_package`` and, in C++, ``torch::inductor::AOTIModelPackageLoader``,
            which take no other ending.
        example_inputs
            What the model is called with. The export is compared with the adapted model on them.
        method
            "script" compiles the model's source to TorchScript, "trace" records one call; a TorchScript model is
            written as it is. "export" is torch.export, for eager models. "aoti" compiles that further, to machine code
            for this version of torch, this kind of processor and the device that the model is on; batches may have
            other sizes than the example, which needs at least two samples. AOTInductor checks the sizes, dtypes and
            devices of what such a package is called with only where the environment variable
            ``AOTI_RUNTIME_CHECK_INPUTS`` is 1.

        Raises
        ------
        ValueError
            For a model that cannot be exported so, and if the exported one gives other results.
        RuntimeError
            With "aoti", if there is no C++ compiler, or it fails.

        Examples
        --------
        >>> adaptation.save("adapted.pt", example_inputs=x)
        >>> torch.allclose(torch.jit.load("adapted.pt")(x), adaptation.prediction)
        True
        """
        if method not in ("script", "trace", "export", "aoti"):
            raise ValueError(f"method must be 'script', 'trace', 'export' or 'aoti', not {method!r}")
        model = self.model().eval()
        with _C.NewFile(path) as file, KeptRandomState():
            if method == "aoti":
                file.write(_package_of(model, example_inputs))
                return
            exported: torch.jit.ScriptModule | torch.export.ExportedProgram
            if method == "export":
                exported = to_exported_program(model, example_inputs)
            else:
                exported = to_torchscript(model, example_inputs, method)
            content = io.BytesIO()  # torch's own writers end the process when a disk is full
            if isinstance(exported, torch.jit.ScriptModule):
                torch.jit.save(exported, content)
            else:
                torch.export.save(exported, content)
            file.write(content.getvalue())
            call = read_back(file.partial, model, method == "export")
            what = f"exported by {method!r}, the model gives other predictions"
            check_same(call, model, example_inputs, what)
            if isinstance(call, torch.jit.ScriptModule):
                move_weights(call, model)
                check_same(call, model, example_inputs, f"{what} with other weights")
                check_same_writes(
                    call, model, example_inputs, f"exported by {method!r}, the model leaves other weights"
                )


def _package_of(model: nn.Module, example_inputs: Any) -> bytes:
    """Compile a model into a package, in memory."""
    from it3.compiling.packages import write_package  # noqa: PLC0415  (with parts of torch that take long to import)

    tensors = [leaf for leaf in pytree.tree_leaves(example_inputs) if isinstance(leaf, Tensor) and leaf.dim()]
    if all(len(tensor) == 1 for tensor in tensors):
        raise ValueError(
            "the example has one sample, and a package of AOTInductor that is made of one gives wrong results for "
            "others without an error; give an example of at least two"
        )
    program = to_exported_program(model, example_inputs)
    with tempfile.TemporaryDirectory(prefix="it3-") as folder:
        package = Path(folder) / "adapted.pt2"
        write_package(program, package)
        with _C.LoadingHold():
            call = torch._inductor.aoti_load_package(str(package))
        check_same(call, model, example_inputs, "compiled by 'aoti', the model gives other predictions")
        return package.read_bytes()


class _Mark:
    """What tells whether a tensor is still as it was, without a copy of it."""

    def __init__(self, tensor: Tensor) -> None:
        self.address, self.version, self.shape = _address(tensor), _version(tensor), tensor.shape
        self.sum = _sum(tensor)

    def fits(self, tensor: Tensor) -> bool:
        """Return whether a tensor, which may be a copy of the one, has its values."""
        is_written = self.address == _address(tensor) and self.version != _version(tensor)
        return not is_written and self.shape == tensor.shape and int(self.sum) == int(_sum(tensor))


def _is_lazy(tensor: Tensor) -> bool:
    return bool(nn.parameter.is_lazy(tensor))


def _address(tensor: Tensor) -> int:
    return tensor.data_ptr() if tensor.layout == torch.strided else 0


def _version(tensor: Tensor) -> int:
    return tensor._version if counts_writes(tensor) else 0


def _sum(tensor: Tensor) -> Tensor:
    """Sum the bits of values as integers: exact in any order, and without waiting for a device."""
    values = tensor.detach()
    if values.is_quantized:
        values = values.int_repr()
    if values.layout != torch.strided:
        values = values.to_dense()
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj())
    return values.view(_INTEGERS[values.element_size()]).sum(dtype=torch.int64)
