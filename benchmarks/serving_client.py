"""Sends requests to a server from several clients: `python -m benchmarks.serving_client URL FILE COUNT CLIENTS`.

FILE holds a body per line; they are sent in turn. Prints JSON: the seconds of all, the processor time that this process
spent in them, and for each request its line, its status, its answer and its latency. The process has one thread, which
writes requests that are prepared before the clock starts to one connection per client, and reads the status and the
length of each reply; answers are parsed after the clock stops. So little of the processor that the server also uses is
taken.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import Any
from urllib.parse import urlsplit

SECONDS = 600.0  # for the server to answer
HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {size}"
END = b"\r\n\r\n"


@dataclass
class Client:
    """A connection with one request at a time: its number, when it was sent, and the bytes of its reply so far."""

    connection: socket.socket
    number: int = 0
    start: float = 0.0
    reply: bytearray = field(default_factory=bytearray)

    def ask(self, number: int, request: bytes) -> None:
        """Send a request."""
        self.number, self.start = number, time.perf_counter()
        self.reply.clear()
        self.connection.sendall(request)

    def read(self) -> tuple[int, bytes] | None:
        """Status and body of the reply; `None` until it is complete.

        Raises:
            ConnectionError: the server closed the connection.
        """
        received = self.connection.recv(1 << 16)
        if not received:
            raise ConnectionError("the server closed the connection")
        self.reply += received
        head, end, body = self.reply.partition(END)
        if not end or len(body) < _length(head):
            return None
        return int(head[9:12]), bytes(body)


def _length(head: bytes) -> int:
    """The length of the body in the head of a reply."""
    name = b"content-length:"
    value = head[head.lower().index(name) + len(name) :]
    return int(value.partition(b"\r\n")[0])


def send(url: str, bodies: Sequence[bytes], count: int, clients: int) -> dict[str, Any]:
    """The results of `count` requests from `clients` connections, each of which waits for its reply."""
    address = urlsplit(url)
    requests = [HEAD.format(host=address.netloc, size=len(body)).encode() + END + body for body in bodies]
    numbers, replies = iter(range(count)), list[tuple[int, float, int, bytes]]()
    with ExitStack() as stack, DefaultSelector() as selector:
        for _ in range(min(clients, count)):
            pair = (address.hostname or "", address.port or 80)
            connection = stack.enter_context(socket.create_connection(pair, timeout=SECONDS))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(connection, EVENT_READ, Client(connection))
        start, processor = time.perf_counter(), time.process_time()
        for key in selector.get_map().values():
            number = next(numbers)
            key.data.ask(number, requests[number % len(requests)])
        while len(replies) < count:
            ready = selector.select(SECONDS)
            if not ready:
                raise TimeoutError(f"no reply within {SECONDS:.0f} s")
            for key, _ in ready:
                client: Client = key.data
                reply = client.read()
                if reply is None:
                    continue
                replies.append((client.number, time.perf_counter() - client.start, *reply))
                following = next(numbers, None)
                if following is not None:
                    client.ask(following, requests[following % len(requests)])
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
    results = [
        {"line": number % len(bodies), "status": status, "answer": _answer(status, body), "seconds": latency}
        for number, latency, status, body in replies
    ]
    return {"seconds": seconds, "cpu_seconds": processor, "replies": results}


def _answer(status: int, body: bytes) -> str:
    return str(json.loads(body)["choices"][0]["message"]["content"]) if status == 200 else ""


if __name__ == "__main__":
    address, file, number, parallel = sys.argv[1:]
    print(json.dumps(send(address, Path(file).read_bytes().splitlines(), int(number), int(parallel))))
