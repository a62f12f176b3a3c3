"""A network of which one layer returns several tensors."""

from typing import Any

from torch import Tensor, nn


class Branches(nn.Module):
    """Returns several tensors, one of them twice, one as it was given, and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> dict[str, Any]:
        a = self.a(x).tanh()
        b = self.b(x).tanh() * a
        b[:, :3].mul_(2)  # of which a program tells that it writes to b, and not that it makes another one
        return {"pair": (a, b), "count": 3, "given": x, "twice": [x + 1] * 2, "numbered": {1: x * 3, 0: x * 2}}


class Branching(nn.Module):
    """Uses its layer's outputs apart."""

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.first, self.branches, self.last = nn.Linear(4, 8), Branches(), nn.Linear(8, 2)
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(self.times):
            out = self.branches(x)
            a, b = out["pair"]
            c = out["numbered"][0] - out["numbered"][1].sin()
            x = a * out["count"] - b + out["given"] * out["twice"][0] + out["twice"][1] + c
        return self.last(x)
