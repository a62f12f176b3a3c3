"""HTTP that clients seldom speak, or that an attacker would: one answer for a request, whole, and in bounded memory."""

import gzip
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from load_test import Client
from server.serving import Serving, body_of, needs_server, save, serving
from torch import Tensor, nn

pytestmark = needs_server


@contextmanager
def connected(server: Serving) -> Iterator[socket.socket]:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        yield connection


def answers(server: Serving, *parts: bytes) -> bytes:
    """Return all that the server sends until it closes the connection."""
    received = b""
    with connected(server) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(0.2)
        while part := connection.recv(1 << 16):
            received += part
    return received


def head_of(method: str, path: str, **headers: object) -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: x",
        *(f"{name.replace('_', '-')}: {is_}" for name, is_ in headers.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_a_range_gets_the_whole_answer_and_none_of_the_memory_behind_it(engine: Path) -> None:
    with serving(engine, "--connections", 1) as server:
        whole = server.get("/v2").body
        time.sleep(0.5)
        for wanted in ("bytes=0-5", "bytes=9999-99999", "bytes=400-", "bytes=-5", "bytes=0-1,3-4"):
            request = head_of("GET", "/v2", Range=wanted, Connection="close")
            assert answers(server, request).partition(b"\r\n\r\n")[2] == whole, wanted
            time.sleep(0.2)
            with connected(server):  # so that the next one is above the limit
                time.sleep(0.2)
                assert answers(server, request).partition(b"\r\n\r\n")[2] == whole, wanted
            time.sleep(0.2)


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_a_body_that_hides_a_request(engine: Path, samples: Tensor, method: str) -> None:
    """A proxy that shares the connection would give the second answer to somebody else."""
    body = body_of(samples[0])
    with serving(engine) as server:
        hidden = head_of("POST", "/v2/models/it3/infer", Content_Length=len(body)) + body.encode()
        received = answers(server, head_of(method, "/v2", Content_Length=len(hidden)), hidden)
    assert received.count(b"HTTP/1.1 ") == 1
    assert b"prediction" not in received


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({}, b"Content-Length"),
        ({"Content_Length": 8, "Content_Type": "multipart/form-data; boundary=x"}, b"must be JSON, not a form"),
        ({"Content_Length": 8, "Content_Encoding": "gzip"}, b"no complete HTTP request"),
    ],
)
def test_bodies_that_cannot_be_read(engine: Path, headers: dict[str, object], words: bytes) -> None:
    with serving(engine) as server:
        begin = time.perf_counter()
        received = answers(server, head_of("POST", "/v2/models/it3/infer", **headers), b"--x--\r\n\n")
        assert time.perf_counter() - begin < 3, "it has waited for more"
        assert server.metrics()['it3_requests_total{code="400"}'] == 1
    assert received.startswith(b"HTTP/1.1 400 ")
    assert words in received
    assert received.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("name", ["it3", "other"])
def test_a_large_body_takes_no_memory(engine: Path, name: str) -> None:
    bomb = gzip.compress(bytes(1 << 29), compresslevel=1)
    with serving(engine, "--max-body", 4) as server:
        path = f"/v2/models/{name}/infer"
        status = Path(f"/proc/{server.process.pid}/status")
        (before,) = kilobytes(status, "VmRSS:")
        received = answers(server, head_of("POST", path, Content_Encoding="gzip", Content_Length=len(bomb)) + bomb)
        peak, now = kilobytes(status, "VmHWM:", "VmRSS:")
    assert received.startswith(b"HTTP/1.1 413 ")
    assert peak - now < 100_000
    assert now - before < 100_000


def kilobytes(status: Path, *names: str) -> list[int]:
    text = status.read_text()
    return [int(text.partition(name)[2].split()[0]) for name in names]


def test_large_answers_are_not_compressed(tmp_path: Path) -> None:
    """Which takes longer than the deadline."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1))
    path = save(tmp_path / "engine.pt", model, torch.randn(1, 1, 8, 8), num_steps=1)
    body = body_of(torch.randn(1, 1, 256, 256))
    with serving(path, "--deadline", 60_000) as server:
        request = head_of(
            "POST", "/v2/models/it3/infer", Content_Length=len(body), Accept_Encoding="gzip, br", Connection="close"
        )
        begin = time.perf_counter()
        received = answers(server, request + body.encode())
        assert time.perf_counter() - begin < 6
    assert json.loads(received.partition(b"\r\n\r\n")[2])["outputs"][0]["shape"] == [1, 2, 256, 256]


@pytest.mark.parametrize("is_head_sent", [False, True])
def test_a_slow_client_does_not_hold_up_the_end(engine: Path, is_head_sent: bool) -> None:
    with serving(engine, "--grace", 0, "--deadline", 100) as server, connected(server) as connection:
        connection.sendall(head_of("POST", "/v2/models/it3/infer", Content_Length=1000) if is_head_sent else b"P")
        time.sleep(0.5)
        server.ask_to_end()
        begin = time.perf_counter()
        while server.process.poll() is None:
            assert time.perf_counter() - begin < 20
            time.sleep(1)
            try:
                connection.sendall(b" ")
            except OSError:
                break


def test_connections_are_kept(engine: Path, samples: Tensor) -> None:
    with serving(engine) as server:
        client = Client(server.url)
        for body in (body_of(samples[0]), "{}", body_of(samples[1])):
            assert "connection" not in client.send("/infer", body).headers
        client.close()
