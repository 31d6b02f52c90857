"""Sends requests to a server from several clients: `python -m benchmarks.serving_client URL FILE COUNT CLIENTS`.

FILE holds a body per line; they are sent in turn. Prints JSON: the seconds of all, and for each request its line, its
status, its answer and its latency. A process of its own, so that the clients do not share the server's interpreter.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx

HEADERS = {"Content-Type": "application/json"}


def send(url: str, bodies: list[bytes], count: int, clients: int) -> dict[str, Any]:
    """The results of `count` requests from `clients` threads, each with a connection of its own."""
    numbers, replies = iter(range(count)), list[dict[str, Any]]()
    lock, begin = threading.Lock(), threading.Barrier(clients + 1)

    def client() -> None:
        with httpx.Client(timeout=600, trust_env=False) as connection:
            connection.get(f"{url}/health")
            begin.wait()
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                start = time.perf_counter()
                reply = connection.post(
                    f"{url}/v1/chat/completions", content=bodies[number % len(bodies)], headers=HEADERS
                )
                seconds = time.perf_counter() - start
                text = reply.json()["choices"][0]["message"]["content"] if reply.status_code == 200 else ""
                row = {"line": number % len(bodies), "status": reply.status_code, "answer": text, "seconds": seconds}
                replies.append(row)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    begin.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return {"seconds": time.perf_counter() - start, "replies": replies}


if __name__ == "__main__":
    address, file, number, parallel = sys.argv[1:]
    print(json.dumps(send(address, Path(file).read_bytes().splitlines(), int(number), int(parallel))))
