"""Requests that it3-server answers, beside what Python's engine makes of the same file."""

import json
from pathlib import Path

import it3
import torch
from load_test import send_all
from server.serving import (
    Tokens,
    assert_equal,
    body_of,
    error_of,
    mlp,
    needs_server,
    output_of,
    prediction_of,
    save,
    serial,
    serving,
)
from torch import Tensor, nn

pytestmark = needs_server


def test_many_clients_get_what_one_gets(engine: Path, samples: Tensor, device: str) -> None:
    expected = serial(engine, samples, device)
    unadapted = serial(engine, samples, device, num_steps=0)
    assert (expected - unadapted).abs().amax(dim=(1, 2)).min() > 1e-3, "a server that does not adapt would pass"
    with serving(engine, "--workers", 2, "--device", device) as server:
        replies = send_all(server.url, [body_of(sample) for sample in samples], clients=16)
        metrics = server.metrics()
    assert_equal(torch.stack([prediction_of(reply) for reply in replies]), expected)
    assert metrics['it3_requests_total{code="200"}'] == 1000
    assert metrics["it3_request_duration_seconds_count"] == 1000
    assert metrics["it3_adaptation_steps_total"] == 3000
    assert metrics["it3_queue_length"] == 0


def test_samples_of_many_clients_in_one_call(tmp_path: Path, samples: Tensor) -> None:
    # In float32, sums of a call of other sizes are rounded differently, which Adam's steps enlarge to some 1e-5.
    samples = samples[:400].double()
    path = save(tmp_path / "engine.pt", mlp().double(), samples[0])
    with serving(path, "--set", "per_sample=true", "--batch", 8, "--wait", 20) as server:
        replies = send_all(server.url, [body_of(sample) for sample in samples], clients=16)
        metrics = server.metrics()
    given = torch.stack([prediction_of(reply) for reply in replies])
    torch.testing.assert_close(given, serial(path, samples), rtol=0, atol=1e-9)
    assert metrics["it3_requests_per_call_sum"] == 400
    assert metrics["it3_requests_per_call_count"] < 200, "they did not run together"
    assert metrics['it3_requests_per_call_bucket{le="8"}'] == metrics["it3_requests_per_call_count"]


def test_requests_of_other_shapes_run_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2))
    path = save(tmp_path / "engine.pt", model.double(), torch.randn(2, 2, 16).double(), per_sample=True)
    inputs = [torch.randn(1 + index % 3, 2, 16 + index % 2).double() for index in range(40)]
    with serving(path, "--batch", 4, "--wait", 20) as server:
        replies = send_all(server.url, [body_of(x) for x in inputs], clients=8)
    for x, reply in zip(inputs, replies, strict=True):
        assert_equal(prediction_of(reply), serial(path, x[None])[0])


def test_one_that_fails_spares_those_beside_it(tmp_path: Path) -> None:
    path = save(tmp_path / "engine.pt", RefusesLarge(), torch.randn(2, 6), layer="first", per_sample=True)
    good, bad = torch.randn(1, 6), torch.full((1, 6), 50.0)
    with serving(path, "--batch", 8, "--wait", 50) as server:
        replies = send_all(server.url, [body_of(x, names=["x"]) for x in (good, bad)] * 8, clients=16)
    for reply in replies[::2]:
        assert_equal(prediction_of(reply), serial(path, good[None])[0])
    assert [reply.status for reply in replies[1::2]] == [400] * 8
    assert "the loss of sample 0 " in error_of(replies[1])  # of its own request
    with serving(path, "--set", "num_steps=0") as server:  # where no loss is looked at
        reply = server.infer(body_of(bad, names=["x"]))
        assert reply.status == 500
        assert "the network's prediction is not finite" in error_of(reply)


class RefusesLarge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        # Infinite, which no answer may be, for what is large.
        return self.last(self.first(x).tanh()) + torch.where(x > 40, torch.inf, 0.0).sum(1, keepdim=True)


def test_samples_of_a_request_adapt_together(engine: Path, samples: Tensor) -> None:
    batch = samples[:5, 0]
    together, alone = serial(engine, batch[None])[0], serial(engine, samples[:5])[:, 0]
    assert not torch.allclose(together, alone, atol=1e-3)
    with serving(engine) as server:
        assert_equal(server.adapt(batch), together)
        assert_equal(server.adapt(batch), together)  # nothing is kept
    with serving(engine, "--set", "per_sample=true", "--set", "num_steps=1") as server:
        assert_equal(server.adapt(batch), serial(engine, samples[:5], num_steps=1)[:, 0])


def test_uncertainty_on_request(engine: Path, samples: Tensor) -> None:
    batch = samples[:5, 0]
    adaptation = it3.load(engine).adapt(batch)
    body = body_of(batch, id="42", outputs=[{"name": "uncertainty"}, {"name": "prediction"}])
    with serving(engine) as server:
        reply = server.infer(body)
    assert json.loads(reply.body)["id"] == "42"
    assert [output["name"] for output in json.loads(reply.body)["outputs"]] == ["uncertainty", "prediction"]
    assert_equal(prediction_of(reply), adaptation.prediction)
    assert_equal(output_of(reply, "uncertainty"), adaptation.uncertainty)


def test_floating_point_numbers_are_converted(tmp_path: Path, engine: Path, samples: Tensor) -> None:
    precise = save(tmp_path / "engine.pt", mlp().double(), torch.randn(4, 13, dtype=torch.float64))
    with serving(precise) as server:
        given = server.adapt(samples[0].double())
        assert given.dtype == torch.float64
        torch.testing.assert_close(given, serial(precise, samples[:1].double())[0], rtol=1e-14, atol=1e-14)
    with serving(engine) as server:
        assert_equal(server.adapt(samples[0].double()), serial(engine, samples[:1])[0])


def test_several_inputs(tmp_path: Path) -> None:
    tokens, weights = torch.randint(10, (3, 5)), torch.rand(3, 5)
    path = save(tmp_path / "engine.pt", Tokens(), (tokens, weights), layer="first")
    expected = it3.load(path).adapt((tokens, weights)).prediction
    with serving(path) as server:
        assert_equal(server.adapt(tokens, weights, names=NAMES), expected)
        nested = json.loads(body_of(tokens, weights, names=NAMES))
        nested["inputs"][0]["data"], nested["inputs"][1]["data"] = tokens.tolist(), weights.tolist()
        assert_equal(prediction_of(server.infer(json.dumps(nested))), expected)
        assert_equal(server.adapt(weights, tokens, names=NAMES[::-1]), expected)  # they are told by their names


NAMES = ["tokens", "weights"]


class Difference(nn.Module):
    """Calls itself by another name, and takes two inputs that look alike."""

    def __init__(this) -> None:  # noqa: N805
        super().__init__()
        torch.manual_seed(0)
        this.first, this.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(this, larger: Tensor, smaller: Tensor) -> Tensor:  # noqa: N805
        return this.last(this.first(larger - smaller).tanh())


def test_inputs_have_the_names_of_the_arguments(tmp_path: Path) -> None:
    larger, smaller = torch.randn(2, 3, 6).double()
    path = save(tmp_path / "engine.pt", Difference().double(), (larger, smaller), layer="first")
    expected = it3.load(path).adapt((larger, smaller))
    with serving(path) as server:
        outputs = [{"name": "prediction"}, {"name": "uncertainty"}]
        reply = server.infer(body_of(smaller, larger, names=["smaller", "larger"], outputs=outputs))
        told = json.loads(server.get("/v2/models/it3").body)
    assert_equal(prediction_of(reply), expected.prediction)
    assert [info["name"] for info in told["inputs"]] == ["larger", "smaller"]
    sent = json.loads(reply.body)["outputs"]
    assert [output["datatype"] for output in sent] == [info["datatype"] for info in told["outputs"]] == ["FP64", "FP64"]


def test_keywords(tmp_path: Path) -> None:
    inputs = {"tokens": torch.randint(10, (3, 5)), "weights": torch.rand(3, 5)}
    path = save(tmp_path / "engine.pt", Tokens(), inputs, layer="first")
    with serving(path) as server:
        assert_equal(server.adapt(*inputs.values(), names=NAMES), it3.load(path).adapt(inputs).prediction)


def test_what_the_protocol_asks_for(engine: Path) -> None:
    with serving(engine, "--name", "digits.v1") as server:
        assert server.url.endswith("/v2/models/digits.v1")
        about = json.loads(server.get("/v2").body)
        assert about["name"] == "it3-server"
        assert it3.__version__.startswith(about["version"])
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/digits.v1/ready"):
            assert server.get(path).status == 200
        assert json.loads(server.get("/v2/models/digits.v1").body) == {
            "name": "digits.v1",
            "versions": [],
            "platform": "it3",
            "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 13]}],
            "outputs": [
                {"name": "prediction", "datatype": "FP32", "shape": [-1, 3]},
                {"name": "uncertainty", "datatype": "FP32", "shape": [-1]},
            ],
        }
        for path in ("/v2/models/other", "/v2/models/digits_v1", "/nothing", "/v2/models/digits.v1/infer"):
            assert server.get(path).status == 404


def test_prometheus_reads_the_metrics(engine: Path, samples: Tensor) -> None:
    with serving(engine) as server:
        server.adapt(samples[0])
        reply = server.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = reply.body.decode()
    for name, kind in {
        "it3_requests_total": "counter",
        "it3_rejected_total": "counter",
        "it3_adaptation_steps_total": "counter",
        "it3_queue_length": "gauge",
        "it3_request_duration_seconds": "histogram",
        "it3_requests_per_call": "histogram",
    }.items():
        assert f"# TYPE {name} {kind}\n" in text
