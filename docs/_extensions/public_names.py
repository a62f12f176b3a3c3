"""What the API pages have to tell of."""

import inspect
from types import ModuleType
from typing import Any

import it3

# Attributes that torch.nn.Module and pickle ask for, and another spelling.
NOT_FOR_USERS = {
    *("IT3Engine.embeder", "IT3Engine.extra_repr", "IT3Engine.get_extra_state", "IT3Engine.set_extra_state"),
    *("Embedder.extra_repr",),
}


def public_names() -> set[str]:
    """Return all public names, without the leading "it3.": classes, their members, functions, and those of modules."""
    names = set()
    for name in it3.__all__:
        part = getattr(it3, name)
        names |= _names_in(part, name) if isinstance(part, ModuleType) else _with_members(part, name)
    return names - NOT_FOR_USERS


def _names_in(module: ModuleType, name: str) -> set[str]:
    """Return the public names of a module, which has __all__ or defines them itself."""
    listed = getattr(module, "__all__", None)
    own = listed or [
        key
        for key, value in vars(module).items()
        if not key.startswith("_") and (_module_of(value) == module.__name__ or key.isupper())
    ]
    return {name}.union(*(_with_members(getattr(module, key), f"{name}.{key}") for key in own))


def _module_of(value: Any) -> str | None:
    """Return the module that defines a class or a function."""
    return value.__module__ if inspect.isclass(value) or inspect.isroutine(value) else None


def _with_members(part: Any, name: str) -> set[str]:
    """Return a name, and those of a class's documented methods and properties, but for what a public base has."""
    if not inspect.isclass(part):
        return {name}
    bases = [part, *(base for base in part.__mro__[1:] if _is_hidden_base(base))]
    members = {key: value for base in reversed(bases) for key, value in vars(base).items() if not key.startswith("_")}
    documented = {
        key
        for key, value in members.items()
        if (callable(value) or hasattr(value, "fget") or hasattr(value, "func")) and inspect.getdoc(value)
    }
    return {name} | {f"{name}.{key}" for key in documented}


def _is_hidden_base(base: type) -> bool:
    """Whether people know what a base of it3 brings along by the class that is derived from it alone."""
    is_public = base.__name__ in it3.__all__ or base.__name__.startswith("_")
    return base.__module__.split(".")[0] == "it3" and not is_public
