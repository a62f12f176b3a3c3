"""What makes a dataclass of options a mapping of those that were given to it."""

from collections.abc import Iterator, Mapping
from typing import Any, Self

from it3 import _C


class GivenOptions(Mapping[str, Any]):
    """The base of :class:`it3.Options`, whose fields are written from the core's table."""

    _given: tuple[str, ...]

    def __new__(cls, **given: Any) -> Self:
        """Raise for what is not accepted, and note which options are given, if only their defaults."""
        _C.options_of({name: value for name, value in given.items() if name != "online" or value is not None})
        self = super().__new__(cls)
        object.__setattr__(self, "_given", tuple(given))
        return self

    def __post_init__(self, online: bool | None) -> None:
        """Note ``online`` as what it is another spelling of."""
        given = dict.fromkeys(name for name in self._given if name != "online")
        if online is not None:
            given["copy_model"] = None
            object.__setattr__(self, "copy_model", not online)
        object.__setattr__(self, "_given", tuple(given))

    def __getitem__(self, name: str) -> Any:
        """Return the value of an option that was given."""
        if name not in self._given:
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        """Return the names of the options that were given."""
        return iter(self._given)

    def __len__(self) -> int:
        """Return how many options were given."""
        return len(self._given)
