"""Sends requests to a server from several clients: `python -m benchmarks.serving_client URL FILE COUNT CLIENTS`.

FILE holds a body per line; they are sent in turn. Prints JSON: the seconds of all, and for each request its line, its
status, its answer and its latency. A process of its own, so that the clients do not share the server's interpreter,
with the standard library's client, which takes little of the processor that the server also uses.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HEADERS = {"Content-Type": "application/json"}


def send(url: str, bodies: list[bytes], count: int, clients: int) -> dict[str, Any]:
    """The results of `count` requests from `clients` threads, each with a connection of its own."""
    numbers, replies = iter(range(count)), list[dict[str, Any]]()
    lock, begin = threading.Lock(), threading.Barrier(clients + 1)

    def client() -> None:
        with closing(HTTPConnection(urlsplit(url).netloc, timeout=600)) as connection:
            exchange(connection, "GET", "/health")
            begin.wait()
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                start = time.perf_counter()
                status, reply = exchange(connection, "POST", "/v1/chat/completions", bodies[number % len(bodies)])
                seconds = time.perf_counter() - start
                text = json.loads(reply)["choices"][0]["message"]["content"] if status == 200 else ""
                replies.append({"line": number % len(bodies), "status": status, "answer": text, "seconds": seconds})

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    begin.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return {"seconds": time.perf_counter() - start, "replies": replies}


def exchange(connection: HTTPConnection, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Status and body of the reply to a request."""
    connection.request(method, path, body, HEADERS)
    reply = connection.getresponse()
    return reply.status, reply.read()


if __name__ == "__main__":
    address, file, number, parallel = sys.argv[1:]
    print(json.dumps(send(address, Path(file).read_bytes().splitlines(), int(number), int(parallel))))
