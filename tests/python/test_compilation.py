"""it3.compile: what programs of AOTInductor compute, against the formula, and against engines without them."""

import copy
import threading
from functools import partial
from pathlib import Path
from typing import Any

import it3
import pytest
import reference
import torch
from compiled_engines import Images, batch, check_alike, close, dense, engines, is_compiled, make_engine
from torch import Tensor, nn


@pytest.mark.parametrize("samples", [1, 2, 8, 31])
@pytest.mark.parametrize("options", [{}, {"optimizer_name": "sgd", "momentum": 0.9, "max_grad_norm": 1e-3}])
def test_the_formula(cache: Path, samples: int, options: dict[str, Any]) -> None:
    engine, _ = dense(cache, num_steps=4, **options)
    weights = {name: value.clone() for name, value in engine.model.state_dict().items()}
    x = batch(samples, seed=samples)
    embedder = partial(
        reference.embed, **dict(zip(("w1", "b1", "w2", "b2"), engine.embedder.parameters(), strict=True))
    )
    for _ in range(2):  # the first call is tried in both ways
        expected, losses, adapted = reference.adapt(engine.model, "layer", embedder, x, num_steps=4, lr=1e-2, **options)
        result = engine.adapt(x)
        assert is_compiled(engine, x)
        close(result.prediction, expected)
        close(result.losses, torch.tensor(losses, dtype=torch.float64))
        close(result.state_dict()["first.weight"], adapted.first.weight.detach())
    torch.testing.assert_close(engine.model.state_dict(), weights, rtol=0, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"prediction": "mean", "tolerance": 0.2},
        {"prediction": "second"},
        {"restore_probability": 0.3},
        {"num_steps": 0},
        {"optimizer_name": "rmsprop", "weight_decay": 0.1},
    ],
)
def test_what_the_loop_does_is_not_compiled(cache: Path, options: dict[str, Any]) -> None:
    check_alike(*dense(cache, **options), batch(8), batch(5, seed=1))


def test_samples_are_left_out(cache: Path) -> None:
    engine, plain = dense(cache)
    for x in (batch(8), batch(5, seed=1)):
        ordered = plain.uncertainty(x).sort().values
        for left_out in (1, len(x) - 1):
            threshold = float(ordered[left_out - 1 : left_out + 1].mean())
            check_alike(engine, plain, x, threshold=threshold)
            assert int(engine.adapt(x, threshold=threshold).adapted_samples.sum()) == len(x) - left_out
    broken = batch(6)
    broken[2] = torch.nan
    actual, expected = (each.adapt(broken, threshold=0.0) for each in (engine, plain))
    close(actual.prediction, expected.prediction, equal_nan=True)
    with pytest.raises(ValueError, match=r"sample 2"):
        engine(broken)


def test_online_weights_are_kept_and_go_back(cache: Path) -> None:
    engine, plain = dense(cache, online=True)
    start = {name: value.clone() for name, value in engine.model.state_dict().items()}
    for seed in range(4):
        close(engine(batch(8, seed=seed))[0], plain(batch(8, seed=seed))[0])
    close(engine.model.state_dict(), plain.model.state_dict())
    close(engine.drift().distance, plain.drift().distance)
    engine.reset()
    torch.testing.assert_close(engine.model.state_dict(), start, rtol=0, atol=0)


def test_trained_weights_are_seen(cache: Path) -> None:
    engine, plain = dense(cache)
    check_alike(engine, plain, batch(8))
    with torch.no_grad():
        for each in (engine, plain):
            for parameter in each.parameters():
                parameter.mul_(1.3)
            each.model.scale.fill_(0.4)
    check_alike(engine, plain, batch(8))


@pytest.mark.parametrize(("compiled_for", "anchor"), [("frozen", "frozen"), ("frozen", "ema"), ("ema", "ema")])
def test_other_networks_as_anchor(cache: Path, compiled_for: str, anchor: str) -> None:
    engine, plain = engines(cache, batch(8), anchor=compiled_for)
    for each in (engine, plain):
        each.optimization_parameters["anchor"] = anchor
    check_alike(engine, plain, batch(8), batch(3, seed=1))
    for seed in range(3):
        close(
            engine.adapt(batch(8, seed=seed), online=True).prediction,
            plain.adapt(batch(8, seed=seed), online=True).prediction,
        )


def test_images_with_their_own_statistics_and_a_neutral_signal(cache: Path) -> None:
    arguments = {"distance_fn": "kl", "neutral": torch.tensor([3.0, -2.0, 5.0])}
    x = batch(6, 2, 6, 6)
    engine, plain = engines(cache, x, Images, arguments, norm_statistics="blend", norm_prior=3, threshold=0.0)
    for each in (engine, plain):
        each.optimization_parameters["threshold"] = None
    check_alike(engine, plain, x, batch(9, 2, 6, 6, seed=1))
    # These lie otherwise in memory, which the model could ask for.
    for other in (x.to(memory_format=torch.channels_last), x[::2], x.transpose(2, 3)):
        close(*(each.adapt(other).prediction for each in (engine, plain)))


class Parts(nn.Module):
    """Writes in place before its layer, and to its output, with parts of one tensor between, which stay as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 2, 3, padding=1), nn.Linear(6 * 36, 3)
        nn.init.constant_(self.layer.bias, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(nn.functional.silu(self.first(x), inplace=True).chunk(2, 1))
        parts.append(nn.functional.relu(self.layer(parts[-1]), inplace=True))
        return self.last(torch.cat(parts, 1).flatten(1))


def test_operations_in_place_behind_the_layer(cache: Path) -> None:
    x = batch(8, 2, 6, 6)
    engine, plain = engines(cache, x, Parts)
    check_alike(engine, plain, 0.1 * x)  # where nothing is negative, what is written is what was there
    check_alike(engine, plain, 20 * x)


def test_each_sample_by_itself(cache: Path) -> None:
    engine, plain = engines(cache, batch(4, 2, 6, 6), Images, per_sample=True, parameters=["last"])
    for x in (batch(4, 2, 6, 6), batch(70, 2, 6, 6, seed=1)):
        actual, expected = engine.adapt(x), plain.adapt(x)
        close(actual.prediction, expected.prediction)
        close(actual.losses, expected.losses)
        close(engine.uncertainty(x), plain.uncertainty(x))
    x = batch(4, 2, 6, 6)
    assert is_compiled(engine, x)
    ordered = plain.uncertainty(x).sort().values
    threshold = float(ordered[1:3].mean())  # between two samples, as rounding may decide about one on the limit
    close(*(each.adapt(x, threshold=threshold).prediction for each in (engine, plain)))


def test_programs_of_several_kinds(cache: Path) -> None:
    engine, plain = dense(cache)
    engine.optimization_parameters["anchor"] = "frozen"
    it3.compile(engine, batch(8), backend="compiled", cache=cache, progress=False)
    check_alike(engine, plain, batch(8), anchor="frozen")
    for each in (engine, plain):
        each.optimization_parameters["anchor"] = "self"
    check_alike(engine, plain, batch(8))


def test_nothing_else_changes(cache: Path) -> None:
    engine = make_engine(threshold=0.0)
    x, state = batch(8), {name: value.clone() for name, value in engine.state_dict().items() if "extra" not in name}
    given, random, flags = x.clone(), torch.get_rng_state(), [m.training for m in engine.modules()]
    it3.compile(engine, x, cache=cache, progress=False)
    assert torch.equal(torch.get_rng_state(), random)
    torch.testing.assert_close(x, given, rtol=0, atol=0)
    assert [m.training for m in engine.modules()] == flags
    now = engine.state_dict()
    for name, value in state.items():
        torch.testing.assert_close(now[name], value, rtol=0, atol=0)
    assert all(p.grad is None for p in engine.parameters())


def test_auto_takes_the_faster_way(cache: Path) -> None:
    engine = make_engine(threshold=0.0)
    plain = copy.deepcopy(engine)
    it3.compile(engine, batch(8), cache=cache, progress=False)
    for each in (engine, plain):
        each.optimization_parameters["threshold"] = None
    for _ in range(2):
        close(engine(batch(8))[0], plain(batch(8))[0])
    explanation = engine.explain(batch(8))
    assert explanation.is_compiled or "compiled program: the passes are faster" in explanation.compiled


def test_threads_share_a_compiled_engine(cache: Path) -> None:
    engine, plain = dense(cache)
    batches = [batch(8, seed=seed) for seed in range(6)]
    expected = [plain(x)[0] for x in batches]
    failures: list[str] = []

    def work() -> None:
        for _ in range(5):
            for x, prediction in zip(batches, expected, strict=True):
                if not torch.allclose(engine(x)[0], prediction, rtol=1e-9, atol=1e-9):
                    failures.append("another prediction")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
