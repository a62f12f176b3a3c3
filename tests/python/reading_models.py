"""Models whose forward() reads a number in one of Python's many ways, each with how it is changed."""

import argparse
import functools
import operator
import os
import random
import types
from collections import UserDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

Setter = Callable[[float], object]
Getter = Callable[[], Any]

GLOBAL = 1.0
GLOBAL_DICT = {"deep": [{"temp": 1.0}]}
MODULE = types.ModuleType("config")
MODULE.TEMP = 1.0


class Plain:
    shared = 1.0

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


@dataclass
class Data:
    temp: float = 1.0


@dataclass(slots=True)
class Slots:
    temp: float = 1.0


class HasProperty:
    def __init__(self) -> None:
        self._hidden = 1.0

    @property
    def temp(self) -> float:
        return self._hidden * 1.0


class Dynamic:
    def __init__(self) -> None:
        self.values = {"temp": 1.0}

    def __getattr__(self, name: str) -> Any:
        return self.__dict__["values"][name]


class AttributeDict(dict):
    def __getattr__(self, name: str) -> Any:
        return self[name]


class Mode(Enum):
    HOT = 3.0
    COLD = 1.0


class Pair(NamedTuple):
    temp: float
    cfg: Any = None


class Callee:
    def __init__(self) -> None:
        self.temp = 1.0

    def __call__(self) -> float:
        return self.temp


def set_global(value: float) -> None:
    globals()["GLOBAL"] = value


def read_global() -> float:
    return GLOBAL


def with_default(temp: float = 1.0) -> float:
    return temp


def decorated(function: Getter) -> Getter:
    @functools.wraps(function)
    def wrapper() -> Any:
        return function()

    return wrapper


def plain_attribute() -> tuple[Getter, Setter]:
    cfg = Plain(temp=1.0)
    return lambda: cfg.temp, lambda value: setattr(cfg, "temp", value)


def nested_in_containers() -> tuple[Getter, Setter]:
    cfg = Plain(items=[{"a": Plain(temp=1.0)}])
    return lambda: cfg.items[0]["a"].temp, lambda value: setattr(cfg.items[0]["a"], "temp", value)


def replaced_object() -> tuple[Getter, Setter]:
    cfg = Plain(inner=Plain(temp=1.0))
    return lambda: cfg.inner.temp, lambda value: setattr(cfg, "inner", Plain(temp=value))


def class_attribute() -> tuple[Getter, Setter]:
    class Config:
        temp = 1.0

    return lambda: Config.temp, lambda value: setattr(Config, "temp", value)


def attribute_of_base_class() -> tuple[Getter, Setter]:
    class Base:
        temp = 1.0

    class Config(Base):
        pass

    cfg = Config()
    return lambda: cfg.temp, lambda value: setattr(Base, "temp", value)


def hidden_class_attribute() -> tuple[Getter, Setter]:
    cfg = Plain()
    return lambda: cfg.shared, lambda value: setattr(cfg, "shared", value)


def global_name() -> tuple[Getter, Setter]:
    set_global(1.0)
    return read_global, set_global


def global_containers() -> tuple[Getter, Setter]:
    GLOBAL_DICT["deep"][0]["temp"] = 1.0
    return lambda: GLOBAL_DICT["deep"][0]["temp"], lambda value: GLOBAL_DICT["deep"][0].update(temp=value)


def constant_of_module() -> tuple[Getter, Setter]:
    MODULE.TEMP = 1.0
    return lambda: MODULE.TEMP, lambda value: setattr(MODULE, "TEMP", value)


def closure() -> tuple[Getter, Setter]:
    temp = 1.0

    def change(value: float) -> None:
        nonlocal temp
        temp = value

    return lambda: temp, change


def default_argument() -> tuple[Getter, Setter]:
    with_default.__defaults__ = (1.0,)
    return lambda: with_default(), lambda value: setattr(with_default, "__defaults__", (value,))  # noqa: PLW0108


def mutable_default() -> tuple[Getter, Setter]:
    def get(cfg: list[float] = [1.0]) -> float:  # noqa: B006
        return cfg[0]

    return get, lambda value: get.__defaults__[0].__setitem__(0, value)


def keyword_default() -> tuple[Getter, Setter]:
    def get(*, temp: float = 1.0) -> float:
        return temp

    return get, lambda value: get.__kwdefaults__.update(temp=value)


def behind_decorator() -> tuple[Getter, Setter]:
    cfg = Plain(temp=1.0)
    return decorated(lambda: cfg.temp), lambda value: setattr(cfg, "temp", value)


def partial() -> tuple[Getter, Setter]:
    cfg = Plain(temp=1.0)
    return functools.partial(lambda c: c.temp, cfg), lambda value: setattr(cfg, "temp", value)


def bound_method() -> tuple[Getter, Setter]:
    callee = Callee()
    return callee.__call__, lambda value: setattr(callee, "temp", value)


def callable_object() -> tuple[Getter, Setter]:
    callee = Callee()
    return callee, lambda value: setattr(callee, "temp", value)


def lambda_in_table() -> tuple[Getter, Setter]:
    table = {"f": lambda: 1.0}
    return lambda: table["f"](), lambda value: table.update(f=lambda: value)  # noqa: PLW0108


def data_class() -> tuple[Getter, Setter]:
    cfg = Data()
    return lambda: cfg.temp, lambda value: setattr(cfg, "temp", value)


def slots() -> tuple[Getter, Setter]:
    cfg = Slots()
    return lambda: cfg.temp, lambda value: setattr(cfg, "temp", value)


def behind_property() -> tuple[Getter, Setter]:
    cfg = HasProperty()
    return lambda: cfg.temp, lambda value: setattr(cfg, "_hidden", value)


def dynamic_attribute() -> tuple[Getter, Setter]:
    cfg = Dynamic()
    return lambda: cfg.temp, lambda value: cfg.values.update(temp=value)


def built_name() -> tuple[Getter, Setter]:
    cfg = Plain(temp=1.0)
    return lambda: getattr(cfg, "te" + "mp"), lambda value: setattr(cfg, "temp", value)


def attrgetter() -> tuple[Getter, Setter]:
    cfg = Plain(inner=Plain(temp=1.0))
    getter = operator.attrgetter("inner.temp")
    return lambda: getter(cfg), lambda value: setattr(cfg.inner, "temp", value)


def attribute_that_comes() -> tuple[Getter, Setter]:
    cfg = Plain()
    return lambda: getattr(cfg, "temp", 1.0), lambda value: setattr(cfg, "temp", value)


def enum_member() -> tuple[Getter, Setter]:
    cfg = Plain(mode=Mode.COLD)
    return lambda: cfg.mode.value, lambda value: setattr(cfg, "mode", Mode.HOT)


def named_tuple() -> tuple[Getter, Setter]:
    cfg = Pair(1.0, Plain(temp=1.0))
    return lambda: cfg.cfg.temp, lambda value: setattr(cfg.cfg, "temp", value)


def namespaces() -> tuple[Getter, Setter]:
    cfg = types.SimpleNamespace(a=argparse.Namespace(temp=1.0))
    return lambda: cfg.a.temp, lambda value: setattr(cfg.a, "temp", value)


def dict_with_attributes() -> tuple[Getter, Setter]:
    cfg = AttributeDict(temp=1.0)
    return lambda: cfg.temp, lambda value: cfg.update(temp=value)


def user_dict() -> tuple[Getter, Setter]:
    cfg = UserDict(temp=1.0)
    return lambda: cfg["temp"], lambda value: cfg.update(temp=value)


def in_deque() -> tuple[Getter, Setter]:
    cfg = deque([1.0], maxlen=1)
    return lambda: cfg[0], cfg.append


def length_of_set() -> tuple[Getter, Setter]:
    cfg = {1}
    return lambda: float(len(cfg)), lambda value: cfg.update(range(int(value)))


def numpy_array() -> tuple[Getter, Setter]:
    cfg = np.ones(3)
    return lambda: float(cfg[1]), lambda value: cfg.__setitem__(1, value)


def small_tensor_by_data() -> tuple[Getter, Setter]:
    cfg = torch.ones(3)
    return lambda: float(cfg[1]), lambda value: cfg.data[1].fill_(value)  # noqa: PLW0108


def tensor_over_numpy() -> tuple[Getter, Setter]:
    array = np.ones(3)
    cfg = torch.from_numpy(array)
    return lambda: cfg[0].item(), lambda value: array.__setitem__(0, value)  # noqa: PLW0108


def negative_zero() -> tuple[Getter, Setter]:
    cfg = Plain(temp=0.0)
    return lambda: float(np.copysign(2.0, cfg.temp)), lambda value: setattr(cfg, "temp", -0.0)


def module_outside() -> tuple[Getter, Setter]:
    outside = [nn.Dropout(1.0)]
    return lambda: outside[0].p, lambda value: setattr(outside[0], "p", value)


def own_generator() -> tuple[Getter, Setter]:
    generator = random.Random(0)
    return generator.random, lambda value: None


def numpy_generator() -> tuple[Getter, Setter]:
    generator = np.random.default_rng(0)
    return lambda: float(generator.random()), lambda value: None


def shared_generator() -> tuple[Getter, Setter]:
    return lambda: random.uniform(1.0, 2.0), lambda value: None


def shared_numpy_generator() -> tuple[Getter, Setter]:
    return lambda: float(np.random.rand()) + 1, lambda value: None  # noqa: NPY002


def environment() -> tuple[Getter, Setter]:
    os.environ["IT3_TEST_TEMP"] = "1.0"
    return lambda: float(os.environ["IT3_TEST_TEMP"]), lambda value: os.environ.update(IT3_TEST_TEMP=str(value))


def iterator() -> tuple[Getter, Setter]:
    values = iter([float(i) for i in range(1, 10_000)])
    return lambda: next(values), lambda value: None


def generator() -> tuple[Getter, Setter]:
    values = (float(i) for i in range(1, 10_000))
    return lambda: next(values), lambda value: None


def written_counter() -> tuple[Getter, Setter]:
    cfg = Plain(calls=1.0)

    def get() -> float:
        cfg.calls += 1
        return cfg.calls

    return get, lambda value: None


def file(path: str) -> tuple[Getter, Setter]:
    def change(value: float) -> None:
        with open(path, "w") as opened:
            opened.write(str(value))

    def get() -> float:
        with open(path) as opened:
            return float(opened.read())

    change(1.0)
    return get, change


WATCHED = (
    *(plain_attribute, nested_in_containers, replaced_object, class_attribute, attribute_of_base_class),
    *(hidden_class_attribute, global_name, global_containers, constant_of_module, closure, default_argument),
    *(mutable_default, keyword_default, behind_decorator, partial, bound_method, callable_object, lambda_in_table),
    *(data_class, slots, behind_property, dynamic_attribute, built_name, attrgetter, attribute_that_comes, enum_member),
    *(named_tuple, namespaces, dict_with_attributes, user_dict, in_deque, length_of_set, numpy_array),
    *(tensor_over_numpy, negative_zero, module_outside),
)
NOT_WATCHED = (
    *(own_generator, numpy_generator, shared_generator, shared_numpy_generator, environment, iterator, generator),
    *(written_counter, small_tensor_by_data),
)


class Reading(nn.Module):
    """Scales by what a function of Python's gives."""

    def __init__(self, get: Getter) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.get = get

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.first(x).tanh()).tanh()) / self.get()
