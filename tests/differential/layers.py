"""The layers of the grammar: each adds lines of source to a network."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

HEADER = """import random
import types
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

SETTINGS = {"temp": 2.0}

"""
HELPERS = {
    "Pair": """

class Pair(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(c, c), nn.Linear(c, c)

    def forward(self, x: Tensor):
        return self.a(x), self.b(x)
""",
    "Table": """

class Table(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(c, c), nn.Linear(c, c)

    def forward(self, x: Tensor):
        return {"a": self.a(x), "b": self.b(x)}
""",
    "Block": """

class Block(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(c, 6), nn.LayerNorm(6), nn.Linear(6, c)

    def forward(self, x: Tensor):
        return x + self.down(torch.tanh(self.norm(self.up(x))))
""",
}


@dataclass
class Place:
    """A layer that can be injected into: (channel dimension, batch dimension) of its output, and where in it."""

    name: str
    layout: tuple[int, int]
    path: tuple[Any, ...] = ()
    gives_path: bool = True
    is_scriptable: bool = True


@dataclass
class Builder:
    """The text so far, and what the tensor `x` is there."""

    kind: str
    channels: int = 4
    init: list[str] = field(default_factory=list)
    forward: list[str] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    facts: set[str] = field(default_factory=set)
    temperature: str = ""

    @property
    def layout(self) -> tuple[int, int]:
        return {"second": (-1, 1), "signal": (1, 0), "image": (1, 0)}.get(self.kind, (-1, 0))

    @property
    def batch_first(self) -> bool:
        return self.kind != "second"

    def name(self) -> str:
        return f"l{len(self.init)}"

    def layer(self, made: str, used: str = "x = self.{n}(x)", **place: Any) -> str:
        """Add a layer, a place to inject into."""
        n = self.name()
        self.init.append(f"self.{n} = {made}")
        self.forward += used.format(n=n).split("\n")
        self.places.append(Place(n, place.pop("layout", self.layout), **place))
        return n

    def inner(self, n: str, *names: str, is_scriptable: bool = True) -> None:
        self.places += [Place(f"{n}.{name}", self.layout, is_scriptable=is_scriptable) for name in names]


LAST = ("vector", "sequence", "second")
OPERATIONS: dict[str, tuple[tuple[str, ...], Callable[[Builder], None]]] = {}


def operation(*kinds: str) -> Callable[[Callable[[Builder], None]], None]:
    def register(function: Callable[[Builder], None]) -> None:
        OPERATIONS[function.__name__] = (kinds, function)

    return register


@operation(*LAST)
def linear(b: Builder) -> None:
    b.layer(f"nn.Linear({b.channels}, 5)")
    b.channels = 5


@operation(*LAST, "signal", "image")
def tanh(b: Builder) -> None:
    b.forward.append("x = torch.tanh(x)")


@operation(*LAST, "signal", "image")
def activation_in_place(b: Builder) -> None:
    b.layer("nn.LeakyReLU(0.3, inplace=True)", "x = self.{n}(x * 1)")


@operation(*LAST)
def overwritten(b: Builder) -> None:
    b.layer(f"nn.Linear({b.channels}, {b.channels})", "x = self.{n}(x)\nx.sigmoid_()")


@operation(*LAST)
def residual(b: Builder) -> None:
    b.layer(f"nn.Linear({b.channels}, {b.channels})", "x = x + self.{n}(torch.tanh(x))")


@operation(*LAST)
def layer_norm(b: Builder) -> None:
    b.layer(f"nn.LayerNorm({b.channels})")


@operation("vector", "signal", "image")
def batch_norm(b: Builder) -> None:
    b.layer(f"nn.BatchNorm{2 if b.kind == 'image' else 1}d({b.channels})")
    b.facts.add("batch_norm")


@operation("signal", "image")
def group_norm(b: Builder) -> None:
    b.layer(f"nn.GroupNorm(1, {b.channels})")


@operation("image")
def convolution(b: Builder) -> None:
    b.layer(f"nn.Conv2d({b.channels}, 5, 3, padding=1)")
    b.channels = 5


@operation("signal")
def convolution_1d(b: Builder) -> None:
    b.layer(f"nn.Conv1d({b.channels}, 5, 3, padding=1)")
    b.channels = 5


@operation("image")
def pool(b: Builder) -> None:
    b.layer("nn.AdaptiveAvgPool2d((3, 2))")


@operation("image")
def pixels_last(b: Builder) -> None:
    b.layer(
        f"nn.Linear({b.channels}, {b.channels})",
        "x = x + self.{n}(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)",
        layout=(-1, 0),
    )


@operation(*LAST)
def twice(b: Builder) -> None:
    b.layer(f"nn.Linear({b.channels}, {b.channels})", "x = self.{n}(torch.tanh(self.{n}(x)))", is_scriptable=False)


@operation(*LAST)
def tied(b: Builder) -> None:
    a = b.layer(f"nn.Linear({b.channels}, {b.channels})", "x = torch.tanh(self.{n}(x))")
    n = b.layer(f"nn.Linear({b.channels}, {b.channels})")
    b.init.append(f"self.{n}.weight = self.{a}.weight")


@operation(*LAST)
def parametrized(b: Builder) -> None:
    b.layer(f"parametrizations.weight_norm(nn.Linear({b.channels}, {b.channels}))")
    b.facts.add("python")


@operation(*LAST)
def bare_parameter(b: Builder) -> None:
    n = b.name()
    b.init.append(f"self.{n} = nn.Parameter(torch.rand({b.channels}) + 0.5)")
    b.forward.append(f"x = x * self.{n}")


@operation(*LAST)
def dropout(b: Builder) -> None:
    b.layer("nn.Dropout(0.5)")
    b.facts.add("dropout")


@operation("sequence", "second")
def lstm(b: Builder) -> None:
    b.layer(f"nn.LSTM({b.channels}, 5, batch_first={b.batch_first})", "x, _ = self.{n}(x)", path=(0,), gives_path=False)
    b.channels = 5


@operation("sequence", "second")
def gru(b: Builder) -> None:
    b.layer(f"nn.GRU({b.channels}, 5, batch_first={b.batch_first})", "x, _ = self.{n}(x)", path=(0,), gives_path=False)
    b.channels = 5


@operation("sequence", "second")
def hidden_state(b: Builder) -> None:
    used = "_, hc = self.{n}(x)\nx = hc[0][-1]"
    n = b.layer(f"nn.LSTM({b.channels}, 5, batch_first={b.batch_first})", used, path=(1, 0), layout=(-1, 1))
    b.places.append(Place(n, (-1, 0 if b.batch_first else 1), (0,), gives_path=False))  # of no effect
    b.kind, b.channels = "vector", 5


@operation("sequence", "second")
def attention(b: Builder) -> None:
    made = f"nn.MultiheadAttention({b.channels}, 1, batch_first={b.batch_first})"
    b.layer(made, "a, _ = self.{n}(x, x, x)\nx = x + a", path=(0,), gives_path=False)


@operation("sequence", "second")
def transformer(b: Builder) -> None:
    made = f"nn.TransformerEncoderLayer({b.channels}, 1, 6, dropout=0.1, batch_first={b.batch_first})"
    n = b.layer(made)
    b.inner(n, "linear1", "norm1", "linear2", is_scriptable=False)  # inside of a branch
    b.facts.add("dropout")


@operation("sequence")
def padded(b: Builder) -> None:
    # With an even number of heads, as torch's fast path needs, and its last places masked.
    b.layer(f"nn.Linear({b.channels}, 4)")
    layer = "nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)"
    mask = "(torch.arange(x.shape[1]) > 0.5 * x.shape[1]).expand(x.shape[:2])"
    b.layer(f"nn.TransformerEncoder({layer}, 2)", f"x = self.{{n}}(x, src_key_padding_mask={mask})")
    b.channels = 4


@operation(*LAST)
def limited(b: Builder) -> None:
    n = b.name()
    limit = f"self.{n}.weight.data = self.{n}.weight.data.clamp(-0.3, 0.3)"
    b.layer(f"nn.Linear({b.channels}, {b.channels})", limit + "\nx = self.{n}(x)", is_scriptable=False)
    b.facts.add("limited")


@operation(*LAST)
def pair(b: Builder) -> None:
    n = b.layer(f"Pair({b.channels})", "u, v = self.{n}(x)\nx = u * v", path=(1,))
    b.places.append(Place(n, b.layout, (0,), gives_path=False))


@operation(*LAST)
def table(b: Builder) -> None:
    b.layer(f"Table({b.channels})", "d = self.{n}(x)\nx = torch.tanh(d['a']) + d['b']", path=("b",))


@operation(*LAST)
def nested(b: Builder) -> None:
    b.inner(b.layer(f"Block({b.channels})"), "up", "norm", "down")


@operation(*LAST)
def container(b: Builder) -> None:
    n = b.layer(f"nn.Sequential(nn.Linear({b.channels}, 6), nn.ReLU(), nn.Linear(6, {b.channels}))")
    b.inner(n, "0", "1", "2")


@operation("vector")
def branches(b: Builder) -> None:
    b.forward.append("if bool(x.sum() > 0.3):\n            x = -x")
    b.facts.add("coupled")


@operation(*LAST)
def buffer_written(b: Builder) -> None:
    n = b.name()
    b.init.append(f"self.register_buffer('{n}', torch.zeros(()))")
    b.forward += [f"self.{n}.copy_(x.detach().mean())", f"x = x - self.{n}"]
    b.facts |= {"coupled", "state"}


@operation(*LAST)
def counted(b: Builder) -> None:
    n = b.name()
    b.init.append(f"self.register_buffer('{n}', torch.zeros((), dtype=torch.long))")
    b.forward.append(f"self.{n}.add_(1)")
    b.facts.add("state")


@operation(*LAST)
def transposed_memory(b: Builder) -> None:
    n = b.name()
    b.init += [
        f"self.{n} = nn.Parameter(torch.randn({b.channels}, {b.channels}))",
        f"self.register_buffer('{n}t', self.{n}.detach().t())",
    ]
    b.forward.append(f"x = x @ self.{n} + torch.tanh(x @ self.{n}t)")
    b.facts.add("shared_memory")


TEMPERATURES = {
    "attribute": ("self.temp = 2.0", "x = x / self.temp"),
    "object": ("self.cfg = types.SimpleNamespace(temp=2.0)", "x = x / self.cfg.temp"),
    "dictionary": ("self.table = {'temp': 2.0}", "x = x / self.table['temp']"),
    "global": ("", "x = x / SETTINGS['temp']"),
}


@operation("sequence")
def mean(b: Builder) -> None:
    b.forward.append("x = x.mean(1)")
    b.kind = "vector"


@operation("second")
def last(b: Builder) -> None:
    b.forward.append("x = x[-1]")
    b.kind = "vector"


@operation("image")
def places_mean(b: Builder) -> None:
    b.forward.append("x = x.mean((2, 3))")
    b.kind = "vector"


@operation("sequence")
def to_signal(b: Builder) -> None:
    b.forward.append("x = x.transpose(1, 2)")
    b.kind = "signal"
