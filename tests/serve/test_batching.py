"""The queue: groups, sizes, cancelled clients, limits, warming up and draining."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.serve import batching
from r2t2_jax.serve.app import Service
from r2t2_jax.serve.batching import Batcher, batch_sizes
from r2t2_jax.serve.metrics import Metrics
from r2t2_jax.serve.schemas import ApiError
from tests.serve.live import Live, body, live_server, until


@dataclass(frozen=True)
class Stub:
    """A question that the queue can group."""

    name: str
    group: str = "one"
    choice: Any = field(default_factory=lambda: SimpleNamespace(strategy="ngd"))
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class Device:
    """Answers with the names of the questions; the first call waits until it is released."""

    batches: list[list[str]] = field(default_factory=list)
    running: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def __call__(self, questions: Sequence[Any]) -> list[Any]:
        self.running.set()
        self.released.wait()
        self.batches.append([question.name for question in questions])
        if any(question.name == "bad" for question in questions):
            raise R2T2Error("/secret/bank: cannot be read")
        return [question.name for question in questions]


@contextmanager
def queue(answer: Callable[..., Any], warming: Sequence[Any] = (), places: int = 16) -> Iterator[Batcher]:
    batcher = Batcher(answer, places, 4, Metrics())
    batcher.start(warming)
    try:
        yield batcher
    finally:
        batcher.close()


def test_the_sizes_of_batches_are_powers_of_two() -> None:
    assert [batch_sizes(n) for n in (1, 4, 7)] == [[1], [1, 2, 4], [1, 2, 4]]


def test_questions_that_wait_together_are_grouped_in_order_of_arrival() -> None:
    device = Device()
    device.released.set()
    with queue(device, [Stub("warm")]) as batcher:
        assert batcher.submit(Stub("a")).result() == "a"  # after warming up
        assert device.batches[:3] == [["warm"] * size for size in (1, 2, 4)]
        device.running.clear()
        device.released.clear()
        first = batcher.submit(Stub("b"))
        device.running.wait()
        names = [("c", "one"), ("x", "two"), ("d", "one"), ("e", "one"), ("f", "one"), ("g", "one")]
        replies = [batcher.submit(Stub(name, group)) for name, group in names]
        device.released.set()
        assert [reply.result() for reply in (first, *replies)] == ["b", *(name for name, _ in names)]
    assert device.batches[4:] == [["b"], ["c", "d", "e", "f"], ["x"], ["g"]]


def test_strategies_that_were_not_warmed_up_are_answered_one_by_one() -> None:
    device = Device()
    with queue(device) as batcher:
        replies = [batcher.submit(Stub(name)) for name in "abc"]
        device.released.set()
        assert [reply.result() for reply in replies] == ["a", "b", "c"]
    assert device.batches == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize("leaves", [False, True])
def test_a_question_waits_for_a_request_that_is_being_read(monkeypatch: pytest.MonkeyPatch, leaves: bool) -> None:
    monkeypatch.setattr(batching, "LINGER", 3600.0)
    device = Device()
    device.released.set()
    with queue(device, [Stub("warm")]) as batcher:
        until(lambda: batcher.ready)
        with batcher.place():
            with batcher.place():
                first = batcher.submit(Stub("a"))
                time.sleep(0.2)  # in which it would start if it did not wait
                assert not first.running() and not first.done()
                if not leaves:
                    batcher.submit(Stub("b"))
            assert first.result() == "a"
    assert device.batches[3:] == [["a"] if leaves else ["a", "b"]]


def test_a_cancelled_question_is_not_computed() -> None:
    device = Device()
    with queue(device) as batcher:
        first = batcher.submit(Stub("a"))
        device.running.wait()
        second, third = batcher.submit(Stub("b")), batcher.submit(Stub("c"))
        assert second.cancel()
        device.released.set()
        assert first.result() == "a" and third.result() == "c"
        with pytest.raises(CancelledError):
            second.result()
    assert device.batches == [["a"], ["c"]]


def test_a_question_that_fails_does_not_fail_its_company() -> None:
    device = Device()
    device.released.set()
    with queue(device, [Stub("warm")]) as batcher:
        assert batcher.submit(Stub("a")).result() == "a"
        device.released.clear()
        device.running.clear()
        first = batcher.submit(Stub("b"))
        device.running.wait()
        replies = [batcher.submit(Stub(name)) for name in ("c", "bad")]
        device.released.set()
        assert first.result() == "b" and replies[0].result() == "c"
        with pytest.raises(ApiError) as refused:
            replies[1].result()
    assert refused.value.status == 400 and "/secret" not in str(refused.value)
    assert device.batches[4:] == [["b"], ["c", "bad"], ["c"], ["bad"]]


def test_places_are_limited_until_they_are_free_and_closed_while_draining() -> None:
    device = Device()
    device.released.set()
    with queue(device, places=2) as batcher:
        until(lambda: batcher.ready)
        with ExitStack() as taken:
            taken.enter_context(batcher.place())
            taken.enter_context(batcher.place())
            with pytest.raises(ApiError) as full, batcher.place():
                pass
            assert full.value.status == 429 and int(full.value.headers["Retry-After"]) >= 1
            batcher.drain()
            assert batcher.submit(Stub("accepted")).result() == "accepted"
        with pytest.raises(ApiError) as draining, batcher.place():
            pass
        assert (draining.value.status, batcher.state) == (503, "draining")


def test_a_server_that_warms_up_is_not_ready() -> None:
    device = Device()
    with queue(device, [Stub("warm")]) as batcher:
        device.running.wait()
        with pytest.raises(ApiError) as warming, batcher.place():
            pass
        assert (warming.value.status, batcher.state, batcher.ready) == (503, "warming", False)
        device.released.set()


@pytest.fixture
def small(live: Live) -> Iterator[Live]:
    """A server of two places on the shared engine."""
    with live_server(live.service.engine, places=2) as server:
        yield server


def test_a_full_queue_answers_429_and_a_client_that_leaves_frees_its_place(
    small: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher, engine = small.service.batcher, small.service.engine
    released, computed = threading.Event(), list[str]()

    def blocked(questions: Sequence[Any]) -> list[Any]:
        released.wait()
        computed.extend(question.prepared.samples[0].question for question in questions)
        return engine.answer(questions)

    monkeypatch.setattr(batcher, "_answer", blocked)
    url = f"{small.url}/v1/chat/completions"

    def post(question: str, timeout: float | None = None) -> httpx.Response:
        content = body(messages=[{"role": "user", "content": question}], r2t2={"strategy": "base"})
        return httpx.post(url, json=content, timeout=timeout, trust_env=False)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(post, "What is left?")
        until(lambda: batcher._taken and not batcher._waiting)  # it runs
        with pytest.raises(httpx.TimeoutException):
            post("What is middle?", timeout=1.0)  # this client leaves while it waits
        until(lambda: batcher._taken == 1)
        second = pool.submit(post, "What is right?")
        until(lambda: batcher._taken == 2)
        full = post("What is left?")
        assert full.status_code == 429 and int(full.headers["retry-after"]) >= 1
        assert full.json()["error"]["code"] == "queue_full"
        released.set()
        assert first.result().status_code == second.result().status_code == 200
    assert computed == ["What is left?", "What is right?"]


def test_a_client_that_leaves_while_its_image_is_decoded_keeps_its_place_until_then(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, released, waiting = live.service, threading.Event(), list[Any]()
    submit = Service._submit

    def blocked(self: Service, request: Any, account: Any, pending: Any) -> None:
        waiting.append(pending)
        released.wait()
        submit(self, request, account, pending)

    monkeypatch.setattr(Service, "_submit", blocked)
    content = json.dumps(body()).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", live.number)) as connection:
        connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        until(lambda: waiting)
    until(lambda: waiting[0].cancelled())
    assert service.batcher._taken == 1
    released.set()
    until(lambda: not service.batcher._taken and not service.batcher._waiting)
    assert service.reader.memory.used == 0


def test_a_server_that_ends_finishes_what_it_accepted_and_refuses_the_rest(live: Live) -> None:
    with live_server(live.service.engine) as server, ThreadPoolExecutor(1) as pool:
        batcher, released = server.service.batcher, threading.Event()
        answer = batcher._answer
        batcher._answer = lambda questions: released.wait() and answer(questions)  # type: ignore[method-assign]
        content = body(r2t2={"strategy": "base"})
        accepted = pool.submit(httpx.post, f"{server.url}/v1/chat/completions", json=content, timeout=None)
        until(lambda: batcher._taken)
        batcher.drain()
        refused = httpx.post(f"{server.url}/v1/chat/completions", json=content, timeout=None)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert httpx.get(f"{server.url}/ready", timeout=None).status_code == 503
        released.set()
        assert accepted.result().status_code == 200
