"""More than it3-server can do, and its end: each request gets one answer in time."""

import json
import signal
import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing, suppress
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import torch
from load_test import Client, Reply, send_all
from server.serving import (
    Serving,
    assert_equal,
    body_of,
    error_of,
    needs_server,
    prediction_of,
    serial,
    serving,
)
from torch import Tensor

pytestmark = needs_server

SLOW = ("--set", "num_steps=300")
"""Adaptation takes long, and can be ended between steps."""
ENDLESS = ("--set", "num_steps=100000000")
MARGIN = 2.0
"""Seconds by which a busy machine may hold an answer back."""


def counted(metrics: dict[str, float]) -> Counter[int]:
    """Return how many requests the metrics have by status."""
    prefix = "it3_requests_total{code="
    return Counter({int(name[len(prefix) + 1 : -2]): int(n) for name, n in metrics.items() if name.startswith(prefix)})


def test_ten_times_the_load(engine: Path, samples: Tensor) -> None:
    samples = samples[:800]
    with serving(engine, *SLOW, "--queue", 16, "--deadline", 1000) as server:
        replies = send_all(server.url, [body_of(sample) for sample in samples], clients=160)
        metrics = server.metrics()
    statuses = Counter(reply.status for reply in replies)
    assert len(replies) == 800
    assert set(statuses) <= {200, 429, 504}
    assert statuses[200] > 0
    assert statuses[429] > 0
    assert max(reply.seconds for reply in replies) < 1 + MARGIN
    assert all(reply.headers["retry-after"] == "1" for reply in replies if reply.status == 429)
    assert counted(metrics) == statuses
    assert metrics['it3_rejected_total{reason="queue_full"}'] == statuses[429]
    assert metrics['it3_rejected_total{reason="deadline"}'] == statuses[504]
    assert metrics["it3_queue_length"] == 0
    answered = [index for index, reply in enumerate(replies) if reply.status == 200]
    expected = serial(engine, samples[answered], num_steps=300)
    given = torch.stack([prediction_of(replies[index]) for index in answered])
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-5)


def test_a_deadline_ends_what_is_under_way(engine: Path, samples: Tensor) -> None:
    hasty = body_of(samples[0], parameters={"timeout": 300_000})
    with serving(engine, *ENDLESS) as server:
        for _ in range(3):  # which one worker can only answer if it does not go on with the one before
            reply = server.infer(hasty)
            assert reply.status == 504
            assert "300000 microseconds" in error_of(reply)
            assert 0.3 <= reply.seconds < 0.3 + MARGIN
    with serving(engine, "--deadline", 200, *ENDLESS) as server:  # which requests cannot put off
        assert server.infer(body_of(samples[0], parameters={"timeout": 60_000_000})).seconds < 0.2 + MARGIN


def test_one_that_is_late_makes_room_in_the_queue(engine: Path, samples: Tensor) -> None:
    with serving(engine, "--queue", 1, *ENDLESS) as server:
        bodies = [body_of(samples[0], parameters={"timeout": microseconds}) for microseconds in (2_000_000, 200_000)]
        threads, replies = asked(server, bodies, pause=0.3)  # one at work, one in the queue
        time.sleep(0.5)
        assert server.infer(bodies[1]).status == 504  # after it has waited, and not 429 at once
        for thread in threads:
            thread.join()
        assert [reply.status for reply in replies] == [504, 504]


def asked(server: Serving, bodies: list[str], pause: float) -> tuple[list[threading.Thread], list[Reply]]:
    """Send bodies one after another, without waiting for the answers, which come into the list."""
    replies: list[Reply] = []
    threads = []
    for body in bodies:
        threads.append(threading.Thread(target=lambda body=body: replies.append(server.infer(body))))
        threads[-1].start()
        time.sleep(pause)
    return threads, replies


def test_the_end_answers_what_was_taken(engine: Path, samples: Tensor) -> None:
    bodies = [body_of(sample) for sample in samples[:6]]
    how = ("--set", "num_steps=1000", "--grace", 500, "--deadline", 60_000)
    with serving(engine, *how) as server, ExitStack() as stack:
        client = stack.enter_context(closing(Client(server.url)))
        assert client.send("/ready").status == 200
        threads, replies = asked(server, bodies[:5], pause=0.02)
        server.ask_to_end()
        time.sleep(0.2)
        reply = client.send("/ready")  # on a connection from before, which it closes
        assert (reply.status, json.loads(reply.body)) == (503, {"name": "it3", "ready": False})
        assert reply.headers["connection"] == "close"
        assert server.get("/v2/health/ready").status == 503
        assert server.get("/v2/health/live").status == 200
        more, late = asked(server, bodies[5:], pause=0)  # within the time of grace
        for thread in threads + more:
            thread.join()
    assert [reply.status for reply in replies + late] == [200] * 6


def test_after_the_time_of_grace_it_takes_no_more(engine: Path, samples: Tensor) -> None:
    bodies = [body_of(samples[0], parameters={"timeout": 2_000_000})]
    with serving(engine, *ENDLESS, "--grace", 0) as server:
        threads, replies = asked(server, bodies, pause=0.3)
        server.ask_to_end()
        time.sleep(0.3)
        reply = server.infer(bodies[0])
        assert reply.status == 503
        assert "shutting down" in error_of(reply)
        threads[0].join()
        assert replies[0].status == 504


def test_a_second_signal_ends_at_once(engine: Path, samples: Tensor) -> None:
    def ask() -> None:
        with suppress(OSError, HTTPException):
            server.infer(body_of(samples[0]))

    with serving(engine, *ENDLESS, "--deadline", 600_000, exit_code=-signal.SIGTERM) as server:
        threading.Thread(target=ask).start()
        for _ in range(2):
            time.sleep(0.3)
            server.ask_to_end()


def test_a_connection_too_many_is_told_so(engine: Path, samples: Tensor) -> None:
    with serving(engine, "--connections", 2) as server, ExitStack() as stack:
        clients = [stack.enter_context(closing(Client(server.url))) for _ in range(2)]
        for client in clients:
            assert client.send("/ready").status == 200
        for _ in range(3):
            reply = server.infer(body_of(samples[0]))
            assert reply.status == 503
            assert reply.headers["retry-after"] == "1"
            assert reply.headers["connection"] == "close"
            assert "2 connections" in error_of(reply)
        assert server.get("/v2/health/live").status == 200
        clients[0].close()
        time.sleep(0.5)
        assert_equal(server.adapt(samples[0]), serial(engine, samples[:1])[0])
        assert server.metrics()['it3_rejected_total{reason="connections"}'] == 3


def test_clients_that_go_away(engine: Path, samples: Tensor) -> None:
    body = body_of(samples[0])
    with serving(engine, *SLOW) as server:
        address = urlsplit(server.url)
        head = f"POST {address.path}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        for sent in ("", head[:20], head, head + body[:30], head + body):
            for _ in range(4):
                with socket.create_connection((address.hostname, address.port)) as connection:
                    connection.sendall(sent.encode())
        assert_equal(server.adapt(samples[0]), serial(engine, samples[:1], num_steps=300)[0])
