"""Draws small networks, as source text."""

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from differential.layers import HEADER, HELPERS, LAST, OPERATIONS, TEMPERATURES, Builder, Place


@dataclass
class Architecture:
    """What the rest of a drawn case depends on."""

    source: str
    place: Place
    inputs: tuple[tuple[str, str, tuple[Any, ...]], ...]
    prediction: tuple[int, int]
    output: tuple[Any, ...]
    gives_output: bool
    facts: frozenset[str]
    temperature: str
    input_batch: int


NAMES = {kind: [n for n, (kinds, _) in OPERATIONS.items() if kind in kinds] for kind in (*LAST, "signal", "image")}
NOT_SCRIPTED = ("parametrized", "pair", "table", "padded", "limited")
NOT_PLAIN = ("buffer_written", "counted", "transposed_memory", "dropout", "transformer", "padded", "limited")
SHAPES: dict[str, tuple[Any, ...]] = {
    "vector": ("B", 4),
    "sequence": ("B", 3, 4),
    "second": (3, "B", 4),
    "signal": ("B", 4, 6),
    "image": ("B", 2, 5, 4),
    "tokens": ("B", 3),
}


def _head(b: Builder, draw: Any) -> None:
    """The prediction `y`."""
    classes = draw(st.sampled_from([2, 3, 1]))
    if classes == 1:
        b.facts.add("one_class")
    n = b.name()
    if b.kind in ("signal", "image"):
        b.layer(f"nn.Conv{2 if b.kind == 'image' else 1}d({b.channels}, {classes}, 1)", "y = self.{n}(x)")
    else:
        b.layer(f"nn.Linear({b.channels}, {classes})", "y = self.{n}(x)")
    b.places.pop()
    if b.kind == "vector" and classes == 1 and draw(st.booleans()):
        b.forward.append("y = y.squeeze(-1)")
        b.facts.add("squeezed")
    if draw(st.integers(0, 9)) == 9:
        b.init.append(f"self.unused_{n} = nn.Linear(2, 2)")


OUTPUTS: list[tuple[str, tuple[Any, ...], bool]] = [
    ("y", (), True),
    ("(y,)", (0,), False),
    ("(x.sum(), y)", (1,), True),
    ("{'logits': y, 'extra': x}", ("logits",), True),
    ("[y]", (0,), False),
    ("(x, {'logits': y})", (1, "logits"), True),
]


@st.composite
def architectures(draw: Any, is_script: bool = False, is_plain: bool = False) -> Architecture:
    """Draw a network. `is_plain`: without Python state and buffers, for what cannot be compared with them."""
    kind = draw(st.sampled_from(["vector", "sequence", "image", "tokens", "signal", "second"]))
    b = Builder("sequence" if kind == "tokens" else kind, 2 if kind == "image" else 4)
    inputs: list[tuple[str, str, tuple[Any, ...]]] = [("x", "tokens" if kind == "tokens" else "float", SHAPES[kind])]
    input_batch = 1 if kind == "second" else 0
    if kind == "tokens":
        norm = "" if is_script else draw(st.sampled_from(["", ", max_norm=0.5"]))  # torch.jit.script drops it
        b.layer(f"nn.Embedding(7, 4{norm})")
        if norm:
            b.facts.add("max_norm")
    elif draw(st.integers(0, 7)) == 7:
        b.forward.append("x.mul_(0.5)")
        b.facts.add("writes_input")
    operations = draw(st.integers(1, 4))
    for i in range(operations + 4):
        names = NAMES[b.kind]
        if i >= operations and b.places:
            break
        name = draw(st.sampled_from(names))
        if is_script and name in NOT_SCRIPTED:
            continue
        if is_plain and name in NOT_PLAIN:
            continue
        OPERATIONS[name][1](b)
    if not any(p.path == () and p.is_scriptable for p in b.places):
        OPERATIONS[{"signal": "convolution_1d", "image": "convolution"}.get(b.kind, "linear")][1](b)
    if not is_script and not is_plain and draw(st.integers(0, 5)) == 5:
        b.temperature = draw(st.sampled_from(list(TEMPERATURES)))
        made, used = TEMPERATURES[b.temperature]
        b.init.append(made or "pass")
        b.forward.append(used)
    if b.kind == "vector" and draw(st.integers(0, 3)) == 3:
        extra = draw(st.sampled_from(["other", "shared", "number"]))
        shapes = {"other": ("B", b.channels), "shared": (3, b.channels), "number": ()}
        inputs.append(("m", {"other": "float"}.get(extra, extra), shapes[extra]))
        b.forward.append("x = x + " + {"other": "torch.tanh(m)", "shared": "m.mean(0)", "number": "m"}[extra])
        b.facts.add(extra)
    _head(b, draw)
    outputs = OUTPUTS[:1] if is_script else OUTPUTS
    returned, path, gives = draw(st.sampled_from(outputs)) if draw(st.integers(0, 2)) == 2 else OUTPUTS[0]
    place = draw(st.sampled_from([p for p in b.places if p.is_scriptable or not is_script]))
    types = {"number": "float"}
    signature = ", ".join(f"{name}: {types.get(kind, 'Tensor')}" for name, kind, _ in inputs)
    used = "".join(text for name, text in HELPERS.items() if f"{name}(" in " ".join(b.init).replace("nn.Embedding", ""))
    source = (
        HEADER + used + "\n\nclass Model(nn.Module):\n    def __init__(self) -> None:\n        super().__init__()\n"
    )
    source += "".join(f"        {line}\n" for line in b.init)
    source += f"\n    def forward(self, {signature}):\n" + "".join(f"        {line}\n" for line in b.forward)
    source += f"        return {returned}\n"
    return Architecture(
        source, place, tuple(inputs), b.layout, path, gives, frozenset(b.facts), b.temperature, input_batch
    )
