"""Eager models and functions as TorchScript or exported programs, compared with what they were made from."""

import copy
import inspect
import keyword
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from it3 import _C
from it3.cutting.exported_model import ExportedModel
from it3.input_layer import WithInputLayer, scripted
from it3.support.kept import own_copy

Method = Literal["script", "trace"]


Copied = TypeVar("Copied", bound=nn.Module)


def copy_of(model: Copied) -> Copied:
    """Make a deep copy of a module, which shares no parameter or buffer with it.

    What a forward left on a module, such as the weight that weight_norm computes, belongs to a graph and cannot be
    deep-copied; the copy's next forward makes it anew. Where a module refuses to be copied, or holds what does, such as
    a lock, its modules are copied one by one, and what refuses is shared.

    Raises
    ------
    ValueError
        If that does not work either.
    """
    attributes = (value for module in model.modules() for value in vars(module).values())
    left = [value for value in attributes if isinstance(value, Tensor) and not value.is_leaf]
    why = "its copy still shares parameters or buffers with it; check its __deepcopy__"
    for how in (_deep_copy, _copy_by_module):
        try:
            copied = how(model, {id(t): t.detach().clone() for t in left})
        except Exception as error:
            why = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
            continue
        if not _shares_tensors(copied, model):
            _share_memory_as(model, copied)
            return copied
    raise ValueError(f"the model, a {type(model).__name__}, cannot be copied: {why}")


def _deep_copy(model: Copied, memo: dict[int, Any]) -> Copied:
    return copy.deepcopy(model, memo)


def _shares_tensors(one: nn.Module, other: nn.Module) -> bool:
    def memory(module: nn.Module) -> set[int]:
        tensors = [t for t in (*module.parameters(), *module.buffers()) if not nn.parameter.is_lazy(t)]
        return {t.untyped_storage().data_ptr() for t in tensors if t.layout == torch.strided} - {0}

    return not memory(one).isdisjoint(memory(other))


def _share_memory_as(model: nn.Module, copied: nn.Module) -> None:
    """Lay tensors of a copy over one memory that are so in the model, as copy.deepcopy parts parameters from views."""
    own, others = ([*m.parameters(), *m.buffers()] for m in (model, copied))
    strided = [t for t in own if not nn.parameter.is_lazy(t) and t.layout == torch.strided and t.device.type != "meta"]
    if len({t.untyped_storage().data_ptr() for t in strided}) == len(strided) or len(own) != len(others):
        return
    twins = dict(zip(map(id, own), others, strict=True))
    for t, value in zip(strided, _C.copies_with_shared_memory([t.detach() for t in strided]), strict=True):
        twins[id(t)].data = value


def _copy_by_module(model: Copied, memo: dict[int, Any]) -> Copied:
    """Copy each module in a module by its attributes, and those that refuse to be copied not at all."""
    modules = [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
    for module in modules:  # first all of them, as their attributes refer to one another
        memo[id(module)] = type(module).__new__(type(module))
    for module in modules:
        attributes = {name: _copy_if_possible(value, memo) for name, value in vars(module).items()}
        memo[id(module)].__dict__.update(attributes)
    copied: Copied = memo[id(model)]
    return copied


def _copy_if_possible(value: Any, memo: dict[int, Any]) -> Any:
    known = dict(memo)
    try:
        copied = copy.deepcopy(value, known)
    except Exception:
        if type(value) in (list, tuple, set):
            return type(value)(_copy_if_possible(item, memo) for item in value)
        if type(value) in (dict, OrderedDict):
            return type(value)((key, _copy_if_possible(item, memo)) for key, item in value.items())
        return value.detach().clone() if isinstance(value, Tensor) else value
    memo.update(known)
    return copied


def uncompiled(model: nn.Module) -> nn.Module:
    """Take the wrappers of torch.compile off a model and the modules in it, in place. A child may be the only one."""
    inner = getattr(model, "_orig_mod", model)
    for module in list(inner.modules()):
        for name, child in list(module._modules.items()):
            unwrapped = getattr(child, "_orig_mod", None)
            if isinstance(unwrapped, nn.Module):
                module._modules[name] = unwrapped
    return inner if isinstance(inner, nn.Module) else model


def to_torchscript(
    model: nn.Module, example_inputs: Any, method: Method, name: str = "the model", advice: str = ""
) -> torch.jit.ScriptModule:
    """Export a model, in the mode that it is in; a TorchScript module is returned as it is.

    Parameters
    ----------
    model
        A module, or a function in :class:`FunctionOfOne` or :class:`FunctionOfTwo`.
    example_inputs
        What it is called with: one tensor, a tuple or list (positional) or a mapping (keywords).
    method
        "script" compiles the source, "trace" records one call.
    name, advice
        For errors: what the module is, and what else there is to do.

    Raises
    ------
    ValueError
        For another method, and for a model that cannot be exported by this one; it tells whether the other one works.
    """
    if method not in ("script", "trace"):
        raise ValueError(f"method must be 'script' or 'trace', not {method!r}")
    if isinstance(model, torch.jit.ScriptModule):
        return model
    if isinstance(model, ExportedModel):
        raise ValueError(
            f"{name} is a program of torch.export, which TorchScript does not take; make the engine around the model "
            "that it was exported from, or keep an adapted model by engine.adapt(inputs).save(path, inputs, "
            "method='export')"
        )
    try:
        return _torchscript(model, example_inputs, method)
    except Exception as error:
        other: Method = "trace" if method == "script" else "script"
        first, wish = _first_line(error), "rewrite it in the part of Python that TorchScript supports"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _torchscript(model, example_inputs, other)
        except Exception as second:
            raise ValueError(
                f"{name} cannot be exported by method={method!r}, nor by {other!r}; {wish}{advice}. "
                f"{method!r} says {first}; {other!r} says {_first_line(second)}"
            ) from error
        raise ValueError(
            f"{name} cannot be exported by method={method!r}; try method={other!r}, or {wish}: {first}"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _torchscript(model: nn.Module, example_inputs: Any, method: Method) -> torch.jit.ScriptModule:
    args, kwargs = _C.arguments_of(own_copy(example_inputs))
    if isinstance(model, WithInputLayer):
        args, kwargs = model.widened(args, kwargs)
        return scripted(model, _torchscript(model.model, kwargs or args, method))
    script: torch.jit.ScriptModule
    with quiet_torchscript():
        if method == "script":
            _check_norms(model)
            script = torch.jit.script(model)
        elif kwargs:
            # Not strict: a mapping may be returned.
            script = torch.jit.trace(model, example_kwarg_inputs=kwargs, strict=False)
        else:
            script = torch.jit.trace(model, args, strict=False)
    return script


def _check_norms(model: nn.Module) -> None:
    """Raise ValueError for embeddings that limit the norms of their weights, which torch.jit.script leaves out."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
            raise ValueError(f"torch.jit.script ignores the max_norm of {name or 'the model'!r}")


def to_exported_program(
    model: nn.Module,
    example_inputs: Any,
    name: str = "the model",
    advice: str = "try method='script' or 'trace'",
    open_dims: Iterable[int] = (0,),
    kept_calls: Iterable[str] = (),
) -> torch.export.ExportedProgram:
    """Export a model with torch.export; some dimensions of its inputs may be of another size, where that works.

    Parameters
    ----------
    model, example_inputs
        The module, and what it is called with.
    open_dims
        These dimensions, of every tensor that has them.
    kept_calls
        The names of modules of which the program is to tell what they return.
    name, advice
        For errors: what the module is, and what else there is to do.

    Raises
    ------
    ValueError
        For a TorchScript module, which torch.export does not take, and for models that it cannot export.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(f"torch.export takes eager models, and {name} is TorchScript; {advice}")
    if isinstance(model, ExportedModel):
        return model.program_now()
    args, kwargs = _C.arguments_of(own_copy(example_inputs))

    def any_batch(leaf: object) -> dict[int, Any] | None:
        if not isinstance(leaf, Tensor):
            return None
        return {dim % leaf.dim(): torch.export.Dim.AUTO for dim in open_dims if -leaf.dim() <= dim < leaf.dim()}

    shapes = pytree.tree_map(any_batch, _by_parameter(model, args, kwargs))
    try:
        return torch.export.export(
            model, args, kwargs, dynamic_shapes=shapes, strict=False, preserve_module_call_signature=tuple(kept_calls)
        )
    except Exception as error:
        raise ValueError(f"{name} cannot be exported by torch.export ({_first_line(error)}); {advice}") from error


def _by_parameter(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return what forward() is called with by its parameters, as torch.export tells open sizes."""
    signature = inspect.signature(model.forward)
    given = dict(signature.bind(*args, **kwargs).arguments)
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            given |= given.pop(parameter.name, {})
    return given


def first_tensor(value: Any) -> Tensor:
    """Return the first tensor in what a model returned."""
    return next(leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))


class FunctionOfOne(nn.Module):
    """A function of a tensor as a module, which can be compiled."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, a: Tensor) -> Tensor:
        """Call the function."""
        result: Tensor = self.function(a)
        return result


class FunctionOfTwo(nn.Module):
    """A function of two tensors as a module, which can be compiled."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Call the function."""
        result: Tensor = self.function(a, b)
        return result


@contextmanager
def quiet_torchscript() -> Iterator[None]:
    """Silence the deprecation of all of TorchScript; that the format is used is our choice, not the user's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit")  # of a category that depends on torch's version
        yield


def read_back(file: str, model: nn.Module, is_program: bool) -> Callable[..., Any]:
    """Read a model from the file that it was just written to.

    Raises
    ------
    ValueError
        If that does not work: TorchScript writes some files that it cannot read.
    """
    try:
        with quiet_torchscript():
            warnings.filterwarnings("ignore", message="The given buffer is not writable")  # of torch.export.load
            if is_program:
                program: Callable[..., Any] = torch.export.load(file).module()
                return program
            loaded: torch.jit.ScriptModule = torch.jit.load(file)
            return loaded
    except Exception as error:
        raise unreadable(error, model) from error


def unreadable(error: Exception, *models: nn.Module) -> ValueError:
    """Make an error for a file that cannot be read, which names what TorchScript cannot write: keywords, no ASCII."""
    names = {part for model in models for name in _names_in(model) for part in name.split(".")}
    odd = sorted(n for n in names if n and (not n.isascii() or keyword.iskeyword(n)))
    why = (
        f"TorchScript cannot read names that are not ASCII, or are keywords of Python, such as {odd[0]!r}; rename "
        f"{', '.join(map(repr, odd[:5]))}"
        if odd
        else _first_line(error)
    )
    return ValueError(f"the exported file cannot be read back, so nothing was written: {why}")


def _names_in(model: nn.Module) -> list[str]:
    named = (model.named_modules(), model.named_parameters(), model.named_buffers())
    return [name for names in named for name, _ in names]


def check_close(actual: Tensor, expected: Tensor, what: str, relative: float = 1e-3, absolute: float = 1e-5) -> None:
    """Raise ValueError if an export's predictions are not those of its source."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        raise ValueError(
            f"{what}: of shape {tuple(actual.shape)} and {actual.dtype} rather than {tuple(expected.shape)} and "
            f"{expected.dtype}; nothing was written. Try another method"
        )
    if not torch.allclose(actual, expected, rtol=relative, atol=absolute, equal_nan=True):
        difference = float((actual - expected).abs().max())
        raise ValueError(f"{what}: {difference:.3g} apart; nothing was written. Try another method")


def check_same(exported: Callable[..., Any], model: nn.Module, example_inputs: Any, what: str) -> None:
    """Raise ValueError if an exported model gives other predictions than the model."""
    predictions = []
    for call in (exported, model):
        args, kwargs = _C.arguments_of(own_copy(example_inputs))
        with torch.no_grad():
            predictions.append(first_tensor(call(*args, **kwargs)))
    check_close(predictions[0], predictions[1], what)


def check_same_writes(exported: nn.Module, model: nn.Module, example_inputs: Any, what: str) -> None:
    """Raise ValueError if a call leaves other weights in an exported model, to which forward() writes."""
    for module in (exported, model):
        args, kwargs = _C.arguments_of(own_copy(example_inputs))
        with torch.no_grad():
            module(*args, **kwargs)
    weights = dict(exported.named_parameters())
    for name, weight in model.named_parameters():
        if name in weights:
            check_close(weights[name].detach(), weight.detach(), f"{what}, where forward() writes to {name!r}")


def move_weights(*models: nn.Module) -> None:
    """Move the weights of models that are to be compared, as steps move them, but further.

    What depends on their values shows then: a limit that they already keep, to which forward() holds them by writing.
    """
    for parameter in (p for model in models for p in model.parameters()):
        if parameter.is_floating_point() or parameter.is_complex():
            size = parameter.shape[-1] if parameter.dim() else 1  # along the last dimension, so that it takes no memory
            pattern = torch.arange(size, device=parameter.device).cos().to(parameter.dtype)
            parameter.data.mul_(1.25).add_(pattern if parameter.dim() else pattern[0], alpha=0.01)
