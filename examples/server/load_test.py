"""Measure a running it3-server: requests of one random sample each, from clients that each wait for their answer.

python examples/server/load_test.py http://localhost:8080/v2/models/it3 --requests 1000 --clients 16
"""

import argparse
import http.client
import json
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Reply:
    """What a request was answered by, and after how long."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


class Client:
    """A connection that is kept between requests."""

    def __init__(self, url: str, timeout: float = 60) -> None:
        address = urlsplit(url)
        self._path = address.path
        self._connection = http.client.HTTPConnection(address.hostname or "localhost", address.port, timeout=timeout)

    def send(self, path: str, body: bytes | str | None = None) -> Reply:
        """GET without a body, else POST."""
        begin = time.perf_counter()
        headers = {} if body is None else {"Content-Type": "application/json"}
        self._connection.request("GET" if body is None else "POST", self._path + path, body, headers)
        response = self._connection.getresponse()
        content = response.read()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, names, content, time.perf_counter() - begin)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def send_all(url: str, bodies: Sequence[str], clients: int) -> list[Reply]:
    """Send each body to be inferred on, from so many clients at a time. Raise if one gets no answer."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(bodies)):
        waiting.put(index)
    replies: dict[int, Reply] = {}
    errors: list[Exception] = []

    def run() -> None:
        client = Client(url)
        try:
            while True:
                index = waiting.get_nowait()
                replies[index] = client.send("/infer", bodies[index])
        except queue.Empty:
            client.close()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise ExceptionGroup(f"{len(errors)} clients got no answer", errors)
    return [replies[index] for index in range(len(bodies))]


def random_body(inputs: Sequence[dict[str, Any]]) -> str:
    """Return a request of one sample for a model of these inputs, as its metadata tells them."""
    tensors = []
    for info in inputs:
        shape = [1, *info["shape"][1:]]
        count = 1
        for size in shape:
            count *= size
        is_whole = info["datatype"] == "INT64"
        data = [0] * count if is_whole else [random.gauss(0, 1) for _ in range(count)]
        tensors.append({"name": info["name"], "datatype": info["datatype"], "shape": shape, "data": data})
    return json.dumps({"inputs": tensors})


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed."""
    return sorted(values)[max(0, -(-len(values) * int(share * 1000) // 1000) - 1)]


def main() -> None:
    """Send the requests and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of the model, as it3-server prints it")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=16)
    arguments = parser.parse_args()

    inputs = json.loads(Client(arguments.url).send("").body)["inputs"]
    bodies = [random_body(inputs) for _ in range(arguments.requests)]
    begin = time.perf_counter()
    replies = send_all(arguments.url, bodies, arguments.clients)
    seconds = time.perf_counter() - begin

    statuses = Counter(reply.status for reply in replies)
    print(f"{len(replies)} requests from {arguments.clients} clients in {seconds:.2f} s, each with one answer")
    for status, count in sorted(statuses.items()):
        times = [1000 * reply.seconds for reply in replies if reply.status == status]
        print(
            f"{status}: {count} answers, {count / seconds:.0f} a second; "
            f"median {quantile(times, 0.5):.1f} ms, p99 {quantile(times, 0.99):.1f} ms, longest {max(times):.1f} ms"
        )


if __name__ == "__main__":
    main()
