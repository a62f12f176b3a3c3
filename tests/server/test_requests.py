"""Requests and command lines that it3-server refuses, in words, and goes on."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from server.serving import (
    SERVER,
    Serving,
    Tokens,
    assert_equal,
    error_of,
    mlp,
    needs_server,
    refused,
    save,
    serial,
    serving,
)
from torch import Tensor

pytestmark = needs_server

DEEP = 100_000


def request(**tensor: Any) -> str:
    """Return a request that would be right, but for what is given."""
    return json.dumps(
        {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 13], "data": [0.5] * 13, **tensor}]}
    )


def rewritten(value: str) -> str:
    """Return a request with a first number that is written so."""
    return request(data=["X", *[0.5] * 12]).replace('"X"', value)


WRONG = {
    "no JSON": ("{", "the body is no JSON"),
    "nothing": ("", "the body is no JSON"),
    "not UTF-8": (b'{"inputs": "\xff"}', "the body is no JSON"),
    "NaN": (rewritten("NaN"), "NaN and infinity do not exist"),
    "infinity": (rewritten("-Infinity"), "NaN and infinity do not exist"),
    "above all numbers": (rewritten("1e999"), "number overflow"),
    "above float32": (rewritten("1e39"), 'input "input" has 1e+39, which is no finite number of its datatype'),
    "above the network's float32": (
        request(datatype="FP64", data=[1e300] * 13),
        'input "input" has numbers that are too large for the network\'s dtype, Float',
    ),
    "null": (rewritten("null"), "has null, which is no finite number"),
    "text": (rewritten('"a"'), 'has "a", which is no finite number'),
    "a list in a flat list": (request(data=[*[0.5] * 12, [0.5]]), "has an array, which is no finite number"),
    "deep": (rewritten("[" * DEEP + "]" * DEEP), "is nested in another way than its shape"),
    "deep behind": (request(data=[*[0.5] * 12, "X"]).replace('"X"', "[" * DEEP + "]" * DEEP), "has an array"),
    "a deep shape": (request(shape="X").replace('"X"', "[" * DEEP + "]" * DEEP), "whole numbers above 0"),
    "a list": ("[]", "must be a JSON object, not array"),
    "no inputs": ("{}", 'the request has no "inputs"'),
    "inputs of another kind": ('{"inputs": {}}', '"inputs" of the request must be array'),
    "an input of another kind": ('{"inputs": [1]}', "must be an object"),
    "an empty list": ('{"inputs": []}', 'the input "input" is missing'),
    "no data": (request(data=None), '"data" of the input "input" must be array'),
    "another name": (request(name="x"), 'there is no input "x"; the model has "input"'),
    "another datatype": (request(datatype="INT64"), "is INT64, where FP32 and FP64 are accepted"),
    "an unknown datatype": (request(datatype="BF16"), "is BF16, where FP32 and FP64 are accepted"),
    "too few numbers": (request(shape=[2, 13]), "has 13 numbers, where its shape FP32 [2, 13] has 26"),
    "nested otherwise": (request(data=[[0.5] * 12, [0.5]]), "is nested in another way than its shape"),
    "other dimensions": (request(shape=[13]), "it must have 2, as the FP32 [4, 13] that the engine was saved with"),
    "another size": (request(shape=[1, 5], data=[0.5] * 5), "the inputs are input: FP32 [1, 5]; the engine was saved"),
    "no samples": (request(shape=[0, 13], data=[]), "whole numbers above 0, without 0"),
    "a negative size": (request(shape=[-1, -13]), "whole numbers above 0, without -1"),
    "a huge shape": (request(shape=[2**31 - 1, 2**31 - 1]), "has more numbers than any body"),
    "a huge size": (request(shape=[2**64, 1]), "whole numbers above 0"),
    "half a sample": (request(shape=[1.0, 13]), "whole numbers above 0, without 1.0"),
    "another output": (request()[:-1] + ', "outputs": [{"name": "loss"}]}', 'there is no output "loss"'),
    "an id of another kind": (request()[:-1] + ', "id": 7}', '"id" of the request must be string'),
    "no time": (request()[:-1] + ', "parameters": {"timeout": 0}}', '"timeout" must be a whole number of microseconds'),
}


def test_wrong_requests_get_an_error_and_the_server_goes_on(engine: Path, samples: Tensor) -> None:
    with serving(engine) as server:
        for name, (body, words) in WRONG.items():
            reply = server.infer(body)
            assert reply.status == 400, (name, reply.body)
            assert words in error_of(reply), (name, error_of(reply))
        assert server.metrics()['it3_requests_total{code="400"}'] == len(WRONG)
        assert_equal(server.adapt(samples[0]), serial(engine, samples[:1])[0])


def test_a_body_that_is_too_large(engine: Path, samples: Tensor) -> None:
    with serving(engine, "--max-body", 1) as server:
        large = b" " * (1 << 20) + b"{}"
        for body in (large, chunks_of(large)):
            reply = server.infer(body)
            assert reply.status == 413
            assert "more than 1 MiB" in error_of(reply)
        assert server.metrics()['it3_requests_total{code="413"}'] == 2
        assert_equal(server.adapt(samples[0]), serial(engine, samples[:1])[0])


def chunks_of(body: bytes) -> Any:
    """Return a body that is sent without telling its length before."""
    return iter([body[:1000], body[1000:]])


def test_whole_numbers(tmp_path: Path) -> None:
    inputs = {"tokens": torch.randint(10, (3, 5)), "weights": torch.rand(3, 5)}
    path = save(tmp_path / "engine.pt", Tokens(), inputs, layer="first")

    def ask(server: Serving, tokens: list[Any], datatype: str = "INT64") -> tuple[int, str]:
        first = {"name": "tokens", "datatype": datatype, "shape": [1, 5], "data": tokens}
        second = {"name": "weights", "datatype": "FP32", "shape": [1, 5], "data": [1] * 5}
        reply = server.infer(json.dumps({"inputs": [first, second]}))
        return reply.status, "" if reply.status == 200 else error_of(reply)

    with serving(path) as server:
        assert ask(server, [1, 2, 3, 4, 5]) == (200, "")
        for wrong in (1.0, 2**63, 1e300):
            status, words = ask(server, [1, 2, 3, 4, wrong])
            assert (status, "no finite number of its datatype" in words) == (400, True), words
        assert ask(server, [1, 2, 3, 4, 5], "FP32") == (400, 'the input "tokens" is FP32, where INT64 is accepted')
        status, words = ask(server, [1, 2, 3, 4, 99])  # no row of the table
        assert status in (400, 500)
        assert "index out of range" in words
        assert ask(server, [1, 2, 3, 4, 5]) == (200, "")


def test_command_lines_that_are_wrong(tmp_path: Path, engine: Path) -> None:
    online = save(tmp_path / "online.pt", mlp(), torch.randn(4, 13), copy_model=False)
    (tmp_path / "damaged.pt").write_bytes(engine.read_bytes()[:1000])
    for arguments, code, words in [
        ([tmp_path / "missing.pt"], 2, "File does not exist"),
        ([engine, "--queue", 0], 2, "--queue"),
        ([engine, "--deadline", 0], 2, "--deadline"),
        ([engine, "--set", "num_step=1"], 2, "num_steps"),
        ([engine, "--set", "lr=-1"], 2, "lr must be a number, 0 or more"),
        ([engine, "--set", "momentum=0.5"], 1, "momentum"),
        ([engine, "--batch", 8], 1, "--set per_sample=true"),
        ([engine, "--device", "nowhere"], 1, "nowhere"),
        ([engine, "--host", "256.0.0.1"], 1, "cannot listen at 256.0.0.1"),
        ([online], 1, "keeps what it learns from call to call"),
        ([tmp_path / "damaged.pt"], 1, "damaged.pt"),
    ]:
        given, text = refused(*arguments)
        assert given == code, (arguments, text)
        assert words in text, (arguments, text)
        assert len(text.splitlines()) <= 2, text


def test_more_threads_than_there_can_be(engine: Path) -> None:
    arguments = ["prlimit", "--as=20000000000", SERVER, engine, "--port", 0, "--connections", 16384]
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "give fewer --connections" in done.stderr


def test_a_port_that_is_in_use(engine: Path) -> None:
    with serving(engine) as server:
        port = server.url.split(":")[2].split("/")[0]
        code, text = refused(engine, "--host", "127.0.0.1", "--port", port)
    assert code == 1
    assert "is the port in use?" in text


@pytest.mark.parametrize("path", ["/v2/models/it3/infer", "/v2/models/other/infer", "/v2/health/live"])
def test_the_wrong_method_or_path(engine: Path, path: str) -> None:
    with serving(engine) as server:
        if path.endswith("it3/infer"):
            assert "there is no such path" in error_of(server.get(path))
        else:
            elsewhere = Serving(server.process, server.url.partition("/v2")[0] + path.removesuffix("/infer"))
            assert elsewhere.infer("{}").status == 404
