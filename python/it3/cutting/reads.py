"""What functions, such as a model's forward(), read of Python: globals, closures, classes, objects, and all in these.

A trace fixes all of it, so that it is watched: :class:`it3._C.Watch` asks at each call whether it is as it was. What
cannot be watched is named, and the model runs whole.
"""

import builtins
import collections
import functools
import gc
import operator
import random
import re
import sys
import types
import weakref
from collections.abc import Iterable, Mapping
from enum import Enum
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from it3 import _C
from it3.cutting.exported_model import ExportedModel
from it3.cutting.recording import is_users

_MOST_FACTS = 1000
_MOST_ITEMS = 1000
_MOST_BYTES = 4096

_IMMUTABLE = (
    *(type(None), bool, int, float, complex, str, bytes, range, slice, type(...), type(NotImplemented), re.Pattern),
    *(torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format, torch.finfo, torch.iinfo),
    *(types.GenericAlias, types.UnionType, operator.itemgetter, operator.methodcaller, types.GetSetDescriptorType),
    *(types.MemberDescriptorType, types.MethodDescriptorType, types.WrapperDescriptorType, types.CodeType, _C.Layout),
)
_QUIET_MODULES = {"typing", "logging", "enum", "abc", "collections", "dataclasses", "contextlib", "functools", "types"}
_DYNAMIC = {
    "getattr",
    "hasattr",
    "vars",
    "__dict__",
    "attrgetter",
    "__getattribute__",
    "dir",
    "asdict",
    "astuple",
    "eval",
}
"""Names in code that may read attributes whose names it does not have."""

Fact = tuple[str, Any, Any]


class Reads:
    """Walks through what code names, as far as it leads.

    Parameters
    ----------
    model
        The model whose forward() is at stake. Its modules' own attributes are watched elsewhere.
    codes
        The code that ran, by identity, with its globals. None: all that forward() may run, as far as can be told, and
        as far as it leads.

    Attributes
    ----------
    facts
        What to watch; see :class:`it3._C.Watch`.
    generators
        The random number generators among it.
    obstacle
        What cannot be watched, in words; empty if all can.
    iterators
        Whether that are iterators, which a run would use up.
    """

    def __init__(
        self,
        model: nn.Module,
        codes: dict[int, tuple[CodeType, dict[str, Any]]] | None = None,
        functions: Mapping[str, Any] | None = None,
        own: Iterable[Tensor] = (),
    ) -> None:
        self._functions = dict(functions or {})
        self._subject = " or ".join(self._functions) or "forward()"
        self._follows = codes is None
        self._codes = dict(codes or {})
        self._names = {"forward", "__call__", "__getattr__", "__getattribute__"}
        self._everything = False
        self._modules = {id(m): m for m in model.modules()}
        self._own = {id(t) for t in (*model.parameters(), *model.buffers(), *own)}
        for code, _ in self._codes.values():
            self._take_names(code)
        for _ in range(5):
            before = len(self._names), self._everything
            self._walk()
            if before == (len(self._names), self._everything):
                break

    def _take_names(self, code: CodeType) -> None:
        self._names.update(code.co_names)
        self._names.update(c for c in code.co_consts if isinstance(c, str) and len(c) < 100 and c.isidentifier())
        self._everything = self._everything or not _DYNAMIC.isdisjoint(code.co_names)

    def _walk(self) -> None:
        self.facts: list[Fact] = []
        self.generators: list[Any] = []
        self.obstacle = ""
        self.iterators = False
        self._seen: dict[Any, Any] = {}
        self._met: set[int] = set()
        self._waiting: collections.deque[tuple[Any, str]] = collections.deque()
        for module in self._modules.values():
            self._class(type(module))
            if type(module).__module__.startswith("torch."):
                for name, value in vars(module).items():  # such as an activation of the user's
                    if callable(value) and not isinstance(value, torch.nn.Module) and not _is_torchs_function(value):
                        self._later(value, f"self.{name}")
                continue
            for name in self._named(vars(module)):
                if name not in ("_parameters", "_buffers", "_modules", "training"):
                    self._later(vars(module)[name], f"self.{name}")
        for name, function in self._functions.items():
            self._later(function, name)
        for code, namespace in list(self._codes.values()):
            self._globals(code, namespace)
        self._run()
        self._functions_not_met()
        self._run()

    def _run(self) -> None:
        while self._waiting:
            if len(self.facts) > _MOST_FACTS:
                self._object(f"{self._subject} reads too many Python objects to check at each call")
                self._waiting.clear()
                return
            self._visit(*self._waiting.popleft())

    def _object(self, obstacle: str) -> None:
        self.obstacle = self.obstacle or obstacle

    def _later(self, value: Any, where: str) -> None:
        if not isinstance(value, _IMMUTABLE) and id(value) not in self._seen:
            self._seen[id(value)] = value
            self._waiting.append((value, where))

    def _named(self, mapping: Any, everything: bool = False) -> list[str]:
        if self._everything or everything:
            return [name for name in mapping if isinstance(name, str)]
        return [name for name in self._names if name in mapping]

    def _item(self, namespace: dict[str, Any], name: str, where: str) -> None:
        self.facts.append(("item", namespace, name))
        if name in namespace:
            self._later(namespace[name], where)

    def _globals(self, code: CodeType, namespace: dict[str, Any]) -> None:
        for inner in (code, *(c for c in code.co_consts if isinstance(c, CodeType))):
            for name in inner.co_names:
                if name in namespace or hasattr(builtins, name):
                    if id(namespace) not in self._met or (id(namespace), name) not in self._seen:
                        self._seen[id(namespace), name] = None
                        self._item(namespace, name, name)
                elif name in sys.modules:  # imported inside
                    self._later(sys.modules[name], name)

    def _visit(self, value: Any, where: str) -> None:  # noqa: PLR0912  (a list of kinds)
        kind = type(value)
        if isinstance(value, Tensor):
            if id(value) not in self._own:
                self.facts.append(("tensor", value, None))
        elif id(value) in self._modules or (isinstance(value, types.ModuleType) and _is_torchs(value.__name__)):
            return
        elif isinstance(value, ExportedModel):
            self._program(value, where)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self._later(value.__func__, where)
            self._later(value.__self__, where)
        elif isinstance(value, types.BuiltinFunctionType | types.MethodWrapperType) or _is_cython_function(value):
            owner = getattr(value, "__self__", None)
            if not isinstance(owner, types.ModuleType | type):
                self._later(owner, where)
        elif isinstance(value, types.ModuleType):
            if value is not sys and value.__name__ not in _QUIET_MODULES:
                for name in [n for n in self._names if n in vars(value)]:
                    self._item(vars(value), name, f"{where}.{name}")
        elif isinstance(value, property | functools.cached_property):
            self._later(value.fget if isinstance(value, property) else value.func, where)
        elif isinstance(value, staticmethod | classmethod):
            self._later(value.__func__, where)
        elif isinstance(value, functools.partial):
            for part in (value.func, value.args, value.keywords):
                self._later(part, where)
        elif isinstance(value, operator.attrgetter):
            self._everything = True
        elif isinstance(value, weakref.ref):
            self._later(value(), where)
        elif isinstance(value, random.Random | torch.Generator) or kind.__module__.startswith("numpy.random"):
            self.generators.append(value)
            self._object(f"{self._subject} may draw random numbers from {where}")
        elif isinstance(value, Enum):
            self._later(value._value_, where)
            self._class(kind)
        elif _is_harmless(value):
            return
        elif isinstance(value, dict | list | tuple | set | frozenset | collections.deque):
            self._container(value, where)
        elif kind.__module__ == "numpy" or kind in (bytearray, memoryview) or kind.__module__ == "array":
            self._array(value, where)
        elif hasattr(kind, "__next__"):
            self.iterators = True
            self._object(f"{self._subject} may advance {where}, a {kind.__name__}")
        elif kind is types.SimpleNamespace or _is_plain(kind):
            self._attributes(value, where)
        else:
            self._object(
                f"{self._subject} reads {where}, a {kind.__module__}.{kind.__qualname__}, whose changes cannot be seen"
            )

    def _program(self, program: ExportedModel, where: str) -> None:
        for namespace, key in program.places().values():
            self._item(namespace, key, f"{where}.{key}")
        for module in program.modules():
            self._item(vars(module), "forward", where)
            self.facts.append(("contents", vars(module)["_modules"], None))
            if module is not program and (module._forward_hooks or module._forward_pre_hooks):
                self._object(f"{self._subject} has hooks on a module in a program of torch.export, which are not seen")
            for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
                self._later(vars(module)[hooks], where)

    def _class(self, cls: type) -> None:
        if (id(cls), "class") in self._seen:
            return
        self._seen[id(cls), "class"] = None
        for base in cls.__mro__:
            if _is_a_librarys(base) or not _is_heap_type(base) or base.__module__ == "builtins":
                continue
            for name in self._named(vars(base)):
                is_special = name.startswith("__") and name not in self._names
                if not is_special and name not in ("__dict__", "__weakref__", "__doc__", "__module__"):
                    self.facts.append(("class", base, name))
                    self._later(vars(base)[name], f"{base.__name__}.{name}")
        if type(cls) is not type:
            self._class(type(cls))

    def _function(self, function: FunctionType) -> None:
        code = function.__code__
        self._met.add(id(code))
        self.facts.append(("function", function, None))
        self._later(getattr(function, "__wrapped__", None), function.__qualname__)
        if self._follows and is_users(code) and id(code) not in self._codes:
            self._codes[id(code)] = (code, function.__globals__)
            self._take_names(code)
        if id(code) not in self._codes and is_users(code):
            return
        if is_users(code):
            self._globals(code, function.__globals__)
            for name in self._named(vars(function)):
                self._item(vars(function), name, f"{function.__qualname__}.{name}")
        self._later(function.__defaults__, f"the defaults of {function.__qualname__}")
        self._later(function.__kwdefaults__, f"the defaults of {function.__qualname__}")
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
            self.facts.append(("cell", cell, None))
            with_value = contents_of(cell)
            if with_value and name != "__class__":
                self._later(with_value[0], name)

    def _functions_not_met(self) -> None:
        """Look for the functions of code that ran, but that nothing named leads to, such as what a decorator hides."""
        inner = {id(c) for code, _ in self._codes.values() for c in code.co_consts if isinstance(c, CodeType)}
        codes = [
            code
            for code, _ in self._codes.values()
            if id(code) not in self._met and id(code) not in inner and code.co_flags & 2  # of functions
        ]
        if not codes or self._follows:
            return
        wanted = {id(code) for code in codes}
        for function in gc.get_referrers(*codes):
            if isinstance(function, FunctionType) and id(function.__code__) in wanted:
                self._later(function, function.__qualname__)

    def _container(self, value: Any, where: str) -> None:
        if len(value) > _MOST_ITEMS:
            self._object(f"{self._subject} reads {where}, which has {len(value)} items, too many to check at each call")
            return
        if type(value) is not tuple:
            self.facts.append(("contents", value, None))
        for item in list(value.values()) if isinstance(value, dict) else list(value):
            self._later(item, where)
        if _is_heap_type(type(value)) and not _is_torchs(type(value).__module__):
            self._attributes(value, where)

    def _array(self, value: Any, where: str) -> None:
        is_data = hasattr(value, "nbytes") or isinstance(value, bytearray) or hasattr(value, "buffer_info")
        if not is_data or getattr(getattr(value, "dtype", None), "hasobject", False):
            self._object(f"{self._subject} reads {where}, a {type(value).__name__}, whose changes cannot be seen")
        elif (size := memoryview(value).nbytes) > _MOST_BYTES:
            self._object(f"{self._subject} reads {where}, an array of {size} bytes, too many to check at each call")
        else:
            self.facts.append(("bytes", value, None))

    def _attributes(self, value: Any, where: str) -> None:
        kind = type(value)
        self._class(kind)
        everything = self._everything or any(map(_is_a_librarys, kind.__mro__[:-1]))  # whose code is not looked at
        attributes = _dict_of(value)
        if attributes is not None:
            if everything:
                self.facts.append(("contents", attributes, None))
            for name in self._named(attributes, everything):
                self._later(attributes[name], f"{where}.{name}")
                if not everything:
                    self.facts.append(("item", attributes, name))
            if not everything:  # an attribute of the class may be hidden by one of the object
                hidden = [n for n in self._names if n not in attributes and _is_in_users_class(kind, n)]
                self.facts += [("item", attributes, name) for name in hidden]
        if isinstance(value, nn.Module):  # outside of the model
            for part in ("_parameters", "_buffers", "_modules"):
                self._later(vars(value)[part], where)
        for base in kind.__mro__:
            for name in self._named(vars(base), everything):
                member = vars(base)[name]
                if isinstance(member, types.MemberDescriptorType):
                    self.facts.append(("slot", value, member))
                    self._later(getattr(value, name, None), f"{where}.{name}")


def _is_torchs_function(value: Any) -> bool:
    return _is_torchs(getattr(value, "__module__", None) or type(value).__module__)


def _is_torchs(module: str) -> bool:
    return module == "torch" or module.startswith("torch.")


def _is_a_librarys(kind: type) -> bool:
    return _is_torchs(kind.__module__) or kind.__module__.partition(".")[0] in _QUIET_MODULES


def _is_heap_type(kind: type) -> bool:
    return bool(kind.__flags__ & (1 << 9))


def _is_cython_function(value: Any) -> bool:
    return type(value).__name__ in ("cython_function_or_method", "fused_cython_function")


def _is_plain(kind: type) -> bool:
    """Whether instances hold nothing but what Python shows: each class was written in Python, or is object."""
    for base in kind.__mro__:
        if base in (object, BaseException, Exception):
            continue
        parent = base.__base__ or object
        slots = vars(base).get("__slots__", ())
        count = 1 if isinstance(slots, str) else len(tuple(slots))
        if not _is_heap_type(base) or base.__basicsize__ - parent.__basicsize__ > 8 * (2 + count):
            return False
    return True


def _is_in_users_class(kind: type, name: str) -> bool:
    return any(name in vars(base) for base in kind.__mro__ if _is_heap_type(base) and not _is_torchs(base.__module__))


def _is_harmless(value: Any) -> bool:
    kind = type(value)
    module = kind.__module__
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic | numpy.dtype | numpy.ufunc):
        return True
    return (
        module in ("typing", "_thread", "datetime", "decimal", "logging", "_typing")
        or module.startswith(("torch._C", "torch._ops", "torch.jit", "torch.cuda", "torch.utils._pytree"))
        or any(base.__module__ == "logging" for base in kind.__mro__)
        or kind.__name__ in ("_ArrayFunctionDispatcher", "PyCapsule", "_abc_data", "_tuplegetter")
    )


def _dict_of(value: Any) -> dict[str, Any] | None:
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return attributes if isinstance(attributes, dict) else None


def contents_of(cell: Any) -> tuple[Any, ...]:
    """Return what a closure's cell holds, in a tuple; an empty one if that is nothing."""
    try:
        return (cell.cell_contents,)
    except ValueError:  # empty
        return ()
