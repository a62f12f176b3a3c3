"""Spaces of settings: what a search may choose from, how Optuna is asked for it, and what it answers."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import optuna

#: A list holds choices, a pair the ends of a range, which is searched on a logarithmic scale.
Values = list[Any] | tuple[float, float]
Space = Mapping[str, Values]
#: What Optuna chose by name: the place of a list's value, or a number of a range. JSON can hold them.
Places = Mapping[str, Any]


def check_values(space: Space) -> None:
    """Check that each setting has choices or a range.

    Raises
    ------
    ValueError
        If not.
    """
    for name, values in space.items():
        if isinstance(values, tuple):
            ends = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
            if len(ends) != 2 or len(values) != 2 or not 0 < ends[0] <= ends[1] < math.inf:
                raise ValueError(
                    f"the range of {name!r} must be a pair (low, high) above 0, as it is searched on a logarithmic "
                    f"scale, not {values!r}; a list holds choices"
                )
        elif not isinstance(values, list) or not values:
            raise ValueError(f"{name!r} needs a list of choices, or a pair (low, high), not {values!r}")


def has_whole_ends(values: Values) -> bool:
    """Return whether these are a range between whole numbers."""
    return isinstance(values, tuple) and all(isinstance(end, int) for end in values)


def suggest(trial: optuna.Trial, space: Space, is_whole: Callable[[str], bool]) -> dict[str, Any]:
    """Ask Optuna for a choice, as places; only whole numbers of the ranges that `is_whole` says to consist of them."""
    places: dict[str, Any] = {}
    for name, values in space.items():
        if not isinstance(values, tuple):
            # Optuna takes no lists as choices, such as patterns of parameters.
            places[name] = trial.suggest_categorical(name, range(len(values)))
        elif is_whole(name):
            places[name] = trial.suggest_int(name, int(values[0]), int(values[1]), log=True)
        else:
            places[name] = trial.suggest_float(name, *values, log=True)
    return places


def values_at(space: Space, places: Places) -> dict[str, Any]:
    """Return what was chosen."""
    return {name: place if isinstance(space[name], tuple) else space[name][place] for name, place in places.items()}


def places_of(space: Space, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return where in the space the values lie that were chosen from it: the very objects."""
    return {
        name: value
        if isinstance(space[name], tuple)
        else next(place for place, other in enumerate(space[name]) if other is value)
        for name, value in chosen.items()
    }


def plain(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Optuna's record can hold of a choice, for people to read."""
    simple = (bool, int, float, str, list, tuple, type(None))
    return {name: value if isinstance(value, simple) else repr(value) for name, value in chosen.items()}


def lines_of(chosen: Mapping[str, Any], worth: Mapping[str, float]) -> list[str]:
    """Write a choice as people read it, a line a setting, with what is known of its worth."""
    return [
        f"  {name} = {value!r}" + (f"   worth {worth[name]:+.4g}" if name in worth else "")
        for name, value in chosen.items()
    ]


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Have Optuna tell only of what is wrong."""
    verbosity = optuna.logging.get_verbosity()
    try:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
