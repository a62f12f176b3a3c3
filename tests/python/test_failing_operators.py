"""An error in any operator, of any way of running, leaves model, engine and random state as they were."""

from typing import Any

import pytest
import torch
from it3 import IT3Engine
from kinds_of_network import NETWORKS, build
from models import make_case
from test_transaction import Snapshot
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sgd, momentum": {"optimizer_name": "sgd", "momentum": 0.9},
    "frozen": {"anchor": "frozen"},
    "ema": {"anchor": "ema"},
    "online": {"copy_model": False, "restore_probability": 0.1},
    "online, ema": {"copy_model": False, "anchor": "ema", "recovery_factor": 3.0},
    "per_sample": {"per_sample": True, "num_steps": 1},
    "threshold": {"threshold": 0.0, "max_grad_norm": 1.0},
    "batch statistics": {"norm_statistics": "batch"},
}


class FailAt(TorchDispatchMode):
    """Raises at the n-th operator; counts them if n is 0."""

    def __init__(self, n: int, error: Exception | None = None) -> None:
        super().__init__()
        self.n, self.count, self.error = n, 0, error

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        if self.count == self.n:
            raise self.error or RuntimeError(f"at operator {self.n}, {function}")
        return function(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore:per_sample")
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_operator(network: str, options: str) -> None:
    case = make_case("cnn", torch.float64)
    engine, _ = build(case, network, optimization_parameters={"num_steps": 2, "lr": 0.01, **OPTIONS[options]})
    engine.is_trained = True
    engine(case.inputs)  # what the first call finds out is known
    engine.reset()
    expected, count = adapt(engine, case.inputs, 0)
    complete = engine.drift().distance
    engine.reset()
    failures = ways_round = 0
    for n in range(1, count + 1):
        torch.manual_seed(3)
        before = Snapshot(engine)
        error: Exception | None = None
        try:
            prediction, reached = adapt(engine, case.inputs, n)
        except (RuntimeError, SystemError) as raised:  # torch's vmap makes one of the other
            error = raised
        failures += error is not None
        if error is None:
            if reached >= n:  # where samples cannot adapt all at once, they do one by one
                ways_round += 1
                torch.testing.assert_close(prediction, expected)
            engine.reset()  # later calls have fewer operators: the start is known
        elif complete and engine.drift().distance == complete:
            assert "select.int" in str(error)  # of the loss that is returned: the call itself was over
            engine.reset()
        else:
            assert engine.drift().distance == 0
            before.check(random=True)
    assert failures + ways_round > 0.9 * count > 90
    assert not ways_round or options == "per_sample"
    torch.testing.assert_close(adapt(engine, case.inputs, 0)[0], expected, rtol=0, atol=0)


def adapt(engine: IT3Engine, inputs: Tensor, n: int) -> tuple[Tensor, int]:
    torch.manual_seed(3)
    with FailAt(n) as mode:
        prediction = engine(inputs)[0]
    return prediction, mode.count


def test_short_memory_decides_nothing_for_good() -> None:
    case = make_case("cnn", torch.float64)

    def first_call(n: int) -> tuple[IT3Engine, int]:
        engine = IT3Engine(case.model, case.layer).eval()
        engine.is_trained = True
        with FailAt(n, torch.OutOfMemoryError("CUDA out of memory.")) as mode:
            try:
                engine(case.inputs)
            except torch.OutOfMemoryError:
                engine.reset()
        return engine, mode.count

    engine, count = first_call(0)
    expected = str(engine.explain(case.inputs))
    assert "cut at the layer" in expected
    for n in range(1, count + 1, 37):
        engine, _ = first_call(n)
        engine(case.inputs)
        assert str(engine.explain(case.inputs)) == expected
