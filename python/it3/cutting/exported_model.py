"""Programs of torch.export as models that an engine can be made around."""

import importlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind, TensorArgument
from torch.export.unflatten import InterpreterModule, UnflattenedModule
from torch.utils import _pytree as pytree

from it3.cutting.exported_graph import SqueezeCheck, program_like


class ExportedModel(UnflattenedModule):
    """A program of torch.export as a module, with the modules in it that the program names.

    Its parameters and buffers are copies; other tensors that it holds are the program's. A call raises ValueError for
    inputs that the program was not exported for, or torch's RuntimeError where an operation in it finds out. Whether it
    is in train or eval mode changes nothing: it computes what was exported.
    """

    @property
    def program(self) -> torch.export.ExportedProgram:
        """What it was made of."""
        program: torch.export.ExportedProgram = self.__dict__["_program"]
        return program

    @property
    def input_count(self) -> int:
        """How many tensors it takes."""
        specs = self.program.graph_signature.input_specs
        return sum(spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, TensorArgument) for spec in specs)

    def places(self) -> dict[str, tuple[dict[str, Any], str]]:
        """Return where each tensor is that it computes with, by its name: a dictionary, and the key there."""
        found: dict[str, tuple[dict[str, Any], str]] = {}
        for target in [spec.target for spec in self.program.graph_signature.input_specs if spec.target is not None]:
            prefix, _, name = target.rpartition(".")
            owner = self.get_submodule(prefix)
            namespaces: tuple[dict[str, Any], ...] = (owner._parameters, owner._buffers, vars(owner))
            found[target] = next(namespace for namespace in namespaces if name in namespace), name
        return found

    def program_now(self) -> torch.export.ExportedProgram:
        """Return the program with the parameters and buffers as they are now."""
        now = dict(self.named_parameters(remove_duplicate=False)) | dict(self.named_buffers(remove_duplicate=False))
        return program_like(self.program, self.program.graph_module, self.program.graph_signature, now)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program. Raises ValueError for what torch takes, but the program was not exported for."""
        example_args, example_kwargs = self.program.example_inputs or (args, kwargs)
        in_order = {name: kwargs[name] for name in example_kwargs if name in kwargs}
        kwargs = in_order | kwargs
        leaves, structure = pytree.tree_flatten((args, kwargs))
        examples, own_structure = pytree.tree_flatten((example_args, example_kwargs))
        if structure != own_structure or not all(map(_fits, leaves, examples)):
            raise ValueError(
                f"the program was exported for inputs such as {_kinds(example_args, example_kwargs)}, but it was "
                f"called with {_kinds(args, kwargs)}"
            )
        guards = self.__dict__["_guards"]
        if guards is not None:
            try:
                guards(*leaves)
            except AssertionError as error:
                raise ValueError(
                    f"the program was not exported for inputs such as {_kinds(args, kwargs)}: {error}; export it with "
                    "dynamic_shapes that leave this size open"
                ) from error
        self.__dict__["_check_squeezes"]([leaf for leaf in leaves if isinstance(leaf, Tensor)])
        return super().forward(*args, **kwargs)  # type: ignore[no-untyped-call]

    def __deepcopy__(self, memo: dict[int, Any]) -> "ExportedModel":
        """Copy the parameters and buffers; the program never changes."""
        copied: ExportedModel = model_of(self.program)
        memo[id(self)] = copied
        copied._take_tensors({name: tensor.detach().clone() for name, tensor in self._tensors()})
        for (_, own), (_, other) in zip(self.named_parameters(), copied.named_parameters(), strict=True):
            other.requires_grad_(own.requires_grad)
        return copied

    def __reduce__(self) -> Any:
        """Pickle the program as torch.export.save() writes it, and the tensors as they are now."""
        file = io.BytesIO()
        with _quiet():
            torch.export.save(self.program, file)
        return _unpickled, (file.getvalue(), {name: tensor.detach() for name, tensor in self._tensors()})

    def _tensors(self) -> list[tuple[str, Tensor]]:
        return [*self.named_parameters(), *self.named_buffers()]

    def _take_tensors(self, tensors: dict[str, Tensor]) -> None:
        for name, tensor in self._tensors():
            tensor.data = tensors[name]


def _fits(leaf: Any, example: Any) -> bool:
    """Return whether a value may be given where the program was exported with another."""
    if example is None:
        return leaf is None
    return not isinstance(example, Tensor) or (isinstance(leaf, Tensor) and leaf.dim() == example.dim())


def _kinds(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Describe a call's inputs, such as "a tensor of shape (8, 3), mask=None"."""

    def kind(value: Any) -> str:
        if isinstance(value, Tensor):
            return f"a tensor of shape {tuple(value.shape)}"
        if isinstance(value, list | tuple):
            return f"{type(value).__name__}[{', '.join(map(kind, value))}]"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{name!r}: {kind(each)}' for name, each in value.items())}}}"
        return repr(value) if value is None else f"a {type(value).__name__}"

    return ", ".join([*map(kind, args), *(f"{name}={kind(value)}" for name, value in kwargs.items())]) or "nothing"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch warns of about itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _unpickled(program: bytes, tensors: dict[str, Tensor]) -> ExportedModel:
    with _quiet():
        model: ExportedModel = model_of(torch.export.load(io.BytesIO(program)))
    model._take_tensors(tensors)
    return model


def model_of(model: Any) -> Any:
    """Return an exported program as a module, and everything else as it is."""
    if not isinstance(model, torch.export.ExportedProgram):
        return model
    with _quiet():
        exported = torch.export.unflatten(model)
    exported.__class__ = ExportedModel  # as torch makes modules of its own class only, which forget the conditions
    exported.__dict__["_program"] = model
    exported.__dict__["_check_squeezes"] = SqueezeCheck(model)
    exported.__dict__["_guards"] = getattr(model.module(), "_guards_fn", None)
    for prefix, module in exported.named_modules():  # which have copies of what is neither parameter nor buffer
        for name, value in vars(module).items():
            constant = model.constants.get(f"{prefix}.{name}".lstrip("."))
            if isinstance(value, Tensor) and isinstance(constant, Tensor):
                setattr(module, name, constant)
    return exported.eval()


def class_of(module: nn.Module) -> type[nn.Module]:
    """Return a module's class; of a part of an exported program, the one of torch.nn that it was exported from."""
    if isinstance(module, InterpreterModule):
        package, _, name = (module.type_name() or "").rpartition(".")
        if package.startswith("torch.nn."):
            found: type[nn.Module] = getattr(importlib.import_module(package), name, nn.Module)
            return found
    return type(module)
