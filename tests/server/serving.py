"""The program it3-server, as tests start and ask it."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import it3
import pytest
import torch
from load_test import Client, Reply
from torch import Tensor, nn

SERVER = os.environ.get("IT3_SERVER", "")
needs_server = pytest.mark.skipif(not SERVER, reason="IT3_SERVER does not name the program; make server builds it")
DATATYPES = {torch.float32: "FP32", torch.float64: "FP64", torch.int64: "INT64"}


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(13, 64), nn.ReLU(), nn.Linear(64, 3))


def save(path: Path, model: nn.Module, inputs: object, layer: str = "0", **options: Any) -> Path:
    """Write an engine that takes large steps."""
    options = {"num_steps": 3, "lr": 1e-2, **options}
    engine = it3.IT3Engine(model, layer, optimization_parameters=options).eval()
    engine.is_trained = True  # so that it does not warn that it never was
    engine.save(path, example_inputs=inputs)
    return path


class Tokens(nn.Module):
    """Takes whole numbers, and weights by a keyword."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.first, self.last = nn.Embedding(10, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, tokens: Tensor, weights: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first((self.table(tokens) * weights.unsqueeze(2)).sum(1))))


def serial(path: Path, batches: Tensor, device: str = "cpu", **options: object) -> Tensor:
    """Return what Python's engine predicts, batch by batch."""
    engine = it3.load(path, device)
    return torch.stack([engine.adapt(batch.to(device), **options).prediction for batch in batches]).cpu()


def assert_equal(given: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-6)


@dataclass
class Serving:
    """A server that runs."""

    process: subprocess.Popen[str]
    url: str
    is_asked_to_end: bool = False

    def ask_to_end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.is_asked_to_end = True

    def get(self, path: str) -> Reply:
        """Ask for a path from the root."""
        client = Client(self.url.partition("/v2")[0])
        try:
            return client.send(path)
        finally:
            client.close()

    def infer(self, body: str | bytes) -> Reply:
        """Ask once."""
        client = Client(self.url)
        try:
            return client.send("/infer", body)
        finally:
            client.close()

    def adapt(self, *inputs: Tensor, **how: Any) -> Tensor:
        """Return the prediction for inputs."""
        return prediction_of(self.infer(body_of(*inputs, **how)))

    def metrics(self) -> dict[str, float]:
        """Return the metrics by their names with labels."""
        lines = self.get("/metrics").body.decode().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


def body_of(*inputs: Tensor, names: Sequence[str] = ("input",), **members: Any) -> str:
    tensors = [
        {"name": name, "datatype": DATATYPES[x.dtype], "shape": list(x.shape), "data": x.flatten().tolist()}
        for name, x in zip(names, inputs, strict=True)
    ]
    return json.dumps({"inputs": tensors, **members})


def output_of(reply: Reply, name: str) -> Tensor:
    assert reply.status == 200, reply.body
    (output,) = (output for output in json.loads(reply.body)["outputs"] if output["name"] == name)
    dtype = next(dtype for dtype, datatype in DATATYPES.items() if datatype == output["datatype"])
    return torch.tensor(output["data"], dtype=dtype).reshape(output["shape"])


def prediction_of(reply: Reply) -> Tensor:
    return output_of(reply, "prediction")


def error_of(reply: Reply) -> str:
    content = json.loads(reply.body)
    assert list(content) == ["error"]
    assert reply.headers["content-type"] == "application/json"
    return content["error"]


@contextmanager
def serving(engine: Path, *arguments: object, exit_code: int = 0) -> Iterator[Serving]:
    """Start a server at a free port. In the end it has to stop as it is asked to."""
    command = [SERVER, engine, "--host", "127.0.0.1", "--port", 0, *arguments]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("it3-server: http://"), line
        server = Serving(process, line.removeprefix("it3-server: ").strip())
        yield server
        if not server.is_asked_to_end:
            server.ask_to_end()
        assert process.wait(timeout=60) == exit_code
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def refused(*arguments: object) -> tuple[int, str]:
    """Return the exit code and the message of a server that does not start."""
    command = [SERVER, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr
