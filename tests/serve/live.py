"""A live server in a thread, on the toy port: all tests of the server share it."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from r2t2_jax.contract import Port, Sample
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.metrics import get_metric
from r2t2_jax.serve.app import Service, create_app
from r2t2_jax.serve.batching import Batcher
from r2t2_jax.serve.engine import Engine
from r2t2_jax.serve.guard import Access
from r2t2_jax.serve.images import ImageReader
from r2t2_jax.serve.metrics import Metrics
from r2t2_jax.serve.server import bind, make_server, serve
from tests.toy_port import ToyProcessor, make_samples, toy

TESTS = make_samples(8, seed=1, hinted=0.3)
REFERENCES = make_samples(40, seed=2, hinted=0.9)
SAMPLE = TESTS[0]


def until(condition: Callable[[], Any]) -> None:
    """Wait for a condition that another thread makes true."""
    while not condition():
        time.sleep(0.005)


class TextOrImage(ToyProcessor):
    """Questions without an image are about a black one."""

    def prepare(self, params: Any, samples: Sequence[Sample]) -> Any:
        black = np.zeros_like(SAMPLE.image)
        return super().prepare(params, [replace(s, image=black) if s.image is None else s for s in samples])

    def fits(self, question: str) -> bool:
        return len(question) < 10_000


def port() -> Port:
    return replace(toy(), processor=TextOrImage())


def engine(strategy: str = "ngd") -> Engine:
    own = port()
    return Engine(own, collect_bank(own, REFERENCES, get_metric("exact_match")), strategy, "toy")


@dataclass(frozen=True)
class Live:
    """A server that listens: its service and its address."""

    service: Service
    number: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.number}"


@contextmanager
def live_server(
    engine: Engine, access: Access | None = None, reader: ImageReader | None = None, places: int = 16
) -> Iterator[Live]:
    metrics = Metrics()
    batcher = Batcher(engine.answer, places, 4, metrics)
    service = Service(engine, batcher, metrics, reader or ImageReader(max_pixels=1 << 20), "toy", ("base", "ngd"))
    bound = bind("127.0.0.1", 0)
    server = make_server(create_app(service, access or Access()))
    batcher.start()
    thread = threading.Thread(target=serve, args=(server, service, bound))
    thread.start()
    until(lambda: server.started and batcher.ready)
    try:
        yield Live(service, bound.getsockname()[1])
    finally:
        batcher.drain()
        server.should_exit = True
        thread.join()
        batcher.close()
        service.pool.shutdown()
        bound.close()


def data_url(image: np.ndarray | bytes, kind: str = "png") -> str:
    if isinstance(image, np.ndarray):
        out = io.BytesIO()
        Image.fromarray(image).save(out, kind)
        image = out.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def image_part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def messages(sample: Sample) -> list[dict[str, Any]]:
    content = [{"type": "text", "text": sample.question}, image_part(data_url(sample.image))]
    return [{"role": "user", "content": content}]


def body(sample: Sample = SAMPLE, **more: Any) -> dict[str, Any]:
    return {"model": "toy", "messages": messages(sample), **more}
