"""evaluate(), tune(), calibrate() and save() leave everything as it was."""

import copy
import random
import threading
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import it3
import numpy as np
import pytest
import torch
from it3 import IT3Engine
from kinds_of_network import NETWORKS, build, state_of
from models import make_case
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)

ONLINE = {"copy_model": False, "lr": 0.05}
LOOKS: dict[str, Callable[[IT3Engine, Any], object]] = {
    "evaluate": lambda e, batches: it3.evaluate(e, batches, "mse", {"a": {}, "b": {"num_steps": 1}}),
    "evaluate variants": lambda e, batches: it3.evaluate(
        e, batches, "mse", {"online": {**ONLINE, "distance_fn": "l1"}}
    ),
    "tune": lambda e, batches: it3.tune(e, batches, "mse", budget=3),
    "tune search": lambda e, batches: it3.tune(
        e, batches, "mse", budget=2, search={"copy_model": [False], "distance_fn": ["l1"]}
    ),
}


def all_of(engine: IT3Engine) -> dict[str, Any]:
    """What must stay, to the bit."""
    return {
        "tensors": state_of(engine),
        "memory": [(t.data_ptr(), t._version) for t in (*engine.parameters(), *engine.buffers())],
        "modes": [(name, module.training) for name, module in engine.named_modules()],
        "hooks": [
            sum(len(vars(m).get(kind, ())) for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"))
            for m in engine.modules()
        ],
        "attributes": [sorted(vars(m)) for m in engine.modules() if not isinstance(m, torch.jit.ScriptModule)],
        "options": dict(engine.optimization_parameters),
        "functions": (engine.distance_fn, engine.combine_fn, engine.embedder),
        "drift": engine.drift().distance,
        "gradients": [p.grad for p in engine.parameters()],
        "needs": [p.requires_grad for p in engine.parameters()],
    }


def random_state() -> list[Any]:
    of_numpy = np.random.get_state()  # noqa: NPY002  (the global one)
    cuda = [state.tolist() for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else []
    return [torch.get_rng_state().tolist(), cuda, random.getstate(), of_numpy[1].tolist(), of_numpy[2]]


def assert_same(now: dict[str, Any], before: dict[str, Any]) -> None:
    assert now.keys() == before.keys()
    for name, tensor in before["tensors"].items():
        assert torch.equal(now["tensors"][name], tensor), name
    assert {k: v for k, v in now.items() if k != "tensors"} == {k: v for k, v in before.items() if k != "tensors"}


def make(network: str, device: str = "cpu", **options: object) -> tuple[IT3Engine, list[tuple[Tensor, Tensor]]]:
    case = make_case("cnn", device=device)
    engine, _ = build(case, network, optimization_parameters=options)
    return engine, list(zip(case.inputs.split(2), case.target.split(2), strict=True))


@pytest.mark.parametrize(
    ("look", "options"),
    [
        ("evaluate variants", {}),
        ("tune search", {}),
        ("evaluate", ONLINE),
        ("tune", {**ONLINE, "anchor": "ema", "recovery_factor": 3.0}),
    ],
)
@pytest.mark.parametrize("network", NETWORKS)
def test_nothing_changes(network: str, options: dict, look: str, device: str) -> None:
    engine, batches = make(network, device, **options)
    engine.adapt(batches[0][0])  # online, it has moved
    if options:
        assert engine.drift().distance > 0
    if network != "script":
        engine.train()
        next(iter(engine.model.children())).eval()
    follower = copy.deepcopy(engine)
    before, drawn = all_of(engine), random_state()
    LOOKS[look](engine, batches)
    assert_same(all_of(engine), before)
    assert random_state() == drawn
    # It goes on as if nobody had looked.
    for inputs, _ in batches:
        close(engine.adapt(inputs).prediction, follower.adapt(inputs).prediction)
    engine.reset()
    follower.reset()
    close(dict(engine.model.state_dict()), dict(follower.model.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("look", LOOKS)
def test_nothing_changes_where_something_raises(look: str) -> None:
    engine, batches = make("traced", **ONLINE)
    engine.adapt(batches[0][0])
    before, drawn = all_of(engine), random_state()
    bad = [*batches, (batches[0][0], torch.zeros(2, 7))]
    with pytest.raises(ValueError, match="do not fit"):
        LOOKS[look](engine, bad)
    assert_same(all_of(engine), before)
    assert random_state() == drawn

    def interrupted():
        yield batches[0]
        torch.randn(3)
        random.random()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LOOKS[look](engine, interrupted())
    assert random_state() == drawn


def test_online_rows_start_with_the_weights_of_now() -> None:
    engine, batches = make("traced", **ONLINE)
    engine.adapt(batches[0][0])
    fresh = IT3Engine(copy.deepcopy(engine.model), "conv1", engine.embedder, optimization_parameters=ONLINE).eval()
    expected = torch.cat([(fresh.adapt(x).prediction - y).square().mean(1) for x, y in batches]).mean().item()
    rows = it3.evaluate(engine, batches, "mse").rows
    close(rows[-1]["score"], expected)
    plain = torch.cat([(engine.model(x) - y).square().mean(1) for x, y in batches]).mean().item()
    close(rows[0]["score"], plain)
    close(it3.tune(engine, batches, "mse", budget=1, search={"num_steps": [3]}).score, expected)


def test_loaders_draw_and_nobody_notices() -> None:
    engine, batches = make("traced")
    seen = []

    def loader(run: int):
        seen.append((torch.rand(()).item(), random.random(), np.random.rand()))  # noqa: NPY002
        return batches

    for look in LOOKS.values():
        drawn = random_state()
        look(engine, loader)
        assert random_state() == drawn
    torch.manual_seed(0)  # the run's number
    assert {t for t, _, _ in seen} == {torch.rand(()).item()}
    # Python's and NumPy's generators are not seeded: they go on from the user's state.
    random.seed(12345)
    first = random.getstate()
    expected = random.random()
    random.setstate(first)
    it3.evaluate(engine, loader, "mse")
    assert seen[-1][1] == expected
    assert random.getstate() == first


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(1.0)
        return self.head(self.layer(x) + torch.rand(1))


def test_calibrate_changes_the_threshold_alone() -> None:
    torch.manual_seed(0)
    engine = IT3Engine(Noisy(), "layer").eval()
    x = torch.randn(4, 6)
    engine.uncertainty(x)
    kept, version = x.clone(), x._version
    before, drawn = all_of(engine), random_state()
    engine.uncertainty(x.clone())
    assert random_state() == drawn
    threshold = engine.calibrate([x, x])
    assert random_state() == drawn
    assert torch.equal(x, kept)
    assert x._version == version
    assert engine.optimization_parameters == {"threshold": threshold}
    engine.optimization_parameters.clear()
    assert_same(all_of(engine), before)

    def interrupted():
        yield x
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.calibrate(interrupted())
    assert engine.optimization_parameters == {}
    assert random_state() == drawn


class Cached(nn.Module):
    """Keeps what it computed, in a list too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.seen: list[Tensor] = []
        self.last: Any = None

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.layer(x)
        self.seen[:] = [self.last * 2]
        return self.head(torch.tanh(self.last))


class WithLock(Cached):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.parts = {"locks": [threading.Lock()], "layer": self.layer}

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return self.head(torch.tanh(self.parts["layer"](x)))


class RefusesCopies(Cached):
    def __deepcopy__(self, memo: dict) -> "RefusesCopies":
        raise RuntimeError("no copies")


class IsItsOwnCopy(Cached):
    def __deepcopy__(self, memo: dict) -> "IsItsOwnCopy":
        return self


def weight_normed() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(model[2])
    return model


def parametrized() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    nn.utils.parametrizations.weight_norm(model[2])
    return model


class SharesMemory(Cached):
    def __deepcopy__(self, memo: dict) -> "SharesMemory":
        other = SharesMemory()
        for own, theirs in zip(other.parameters(), self.parameters(), strict=True):
            own.data = theirs.data
        return other


class Counts(Cached):
    """Writes into its buffers, and replaces one."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("before", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        self.before = self.before + 1
        return super().forward(x) + self.calls + self.before


@pytest.mark.parametrize(
    "kind", [Cached, WithLock, RefusesCopies, IsItsOwnCopy, SharesMemory, Counts, weight_normed, parametrized]
)
def test_models_that_are_hard_to_copy(kind: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind()
    x, y = torch.randn(4, 6), torch.randn(4, 3)
    model(x)
    layer = "layer" if hasattr(model, "layer") else "0"
    engine = IT3Engine(model, layer, optimization_parameters={"lr": 0.05}).eval()
    batches = [(x, y), (x + 0.1, y)]
    engine.uncertainty(x)
    before = all_of(engine)
    row = it3.evaluate(engine, batches, "mse", {"online": ONLINE}).rows[-1]
    it3.tune(engine, batches, "mse", budget=2, search={"copy_model": [False]})
    assert_same(all_of(engine), before)
    # The model itself, which may then change, is what the copy was like.
    expected = [(engine.adapt(x, **ONLINE).prediction - y).square().mean().item() for x, y in batches]
    assert row["score"] == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_a_model_whose_functions_hold_its_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    extra = nn.Linear(3, 3)
    model.add_module("extra", nn.Identity())
    model.extra.inner = extra
    model[2].register_forward_hook(lambda _, __, out: extra(out))
    engine = IT3Engine(model, "0").eval()
    batches = [(torch.randn(4, 6), torch.randn(4, 3))]
    before = all_of(engine)
    with pytest.raises(ValueError, match=r"copy uses the original's parameter 'extra\.inner\.\w+', as by a hook"):
        it3.evaluate(engine, batches, "mse", {"online": ONLINE})
    it3.evaluate(engine, batches, "mse", {"plain": {}})
    now = all_of(engine)
    now["tensors"] = {k: v for k, v in now["tensors"].items() if "embedder" not in k}  # the first look shapes it
    before["tensors"] = {k: v for k, v in before["tensors"].items() if "embedder" not in k}
    now["memory"], before["memory"] = (m["memory"][:6] for m in (now, before))
    assert_same(now, before)


def test_a_compiled_model_is_looked_at_as_the_module_in_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    plain = IT3Engine(model, "0", optimization_parameters={"lr": 0.05}).eval()
    batches = [(torch.randn(4, 6), torch.randn(4, 3)) for _ in range(2)]
    plain.uncertainty(batches[0][0])
    engine = IT3Engine(torch.compile(model, backend="eager"), "0", plain.embedder, optimization_parameters={"lr": 0.05})
    before = all_of(engine.eval())
    rows = it3.evaluate(engine, batches, "mse", {"online": ONLINE}).rows
    close(rows[-1]["score"], it3.evaluate(plain, batches, "mse", {"online": ONLINE}).rows[-1]["score"])
    assert_same(all_of(engine), before)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_saving_leaves_random_generators_and_inputs(tmp_path) -> None:
    case = make_case("cnn", torch.float32)
    engine = IT3Engine(case.model, case.layer).eval()
    engine.uncertainty(case.inputs)
    kept = case.inputs.clone()
    before, drawn = all_of(engine), random_state()
    engine.save(tmp_path / "engine.pt", case.inputs)
    engine.adapt(case.inputs).save(tmp_path / "adapted.pt", case.inputs, "trace")
    assert_same(all_of(engine), before)
    assert random_state() == drawn
    assert torch.equal(case.inputs, kept)
