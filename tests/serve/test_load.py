"""A thousand requests from 32 clients: none is lost, answers are those of `r2t2 answer`, and memory stays flat."""

from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.serving import running, send_from_process, write_bodies
from r2t2_jax import answer
from r2t2_jax.datasets import load_dataset
from r2t2_jax.serve import Settings

pytestmark = pytest.mark.slow
REQUESTS, CLIENTS, MODEL, STRATEGY = 1000, 32, "pocket:narrow", "atlas"


def test_a_thousand_requests_from_32_clients(tmp_path: Path) -> None:
    samples = load_dataset("pocket", "test", 40, 0)
    settings = Settings(MODEL, strategy=STRATEGY, queue=64, page=False)
    with running(settings) as (service, url):
        file = write_bodies(tmp_path / "bodies.jsonl", service.name, samples)
        engine = service.engine
        images, questions = [sample.image for sample in samples], [sample.question for sample in samples]
        expected: Any = answer(engine.port, images, questions, strategy=STRATEGY, bank=engine.bank)
        send_from_process(url, file, 200, CLIENTS)
        before = psutil.Process().memory_info().rss
        replies = send_from_process(url, file, REQUESTS, CLIENTS)["replies"]
        grown = psutil.Process().memory_info().rss - before
    print(f"memory: {before >> 20} MiB, and {grown / 2**20:+.1f} MiB after {REQUESTS} requests")
    assert len(replies) == REQUESTS and {reply["status"] for reply in replies} == {200}
    wrong = [reply for reply in replies if reply["answer"] != expected[reply["line"]].after]
    assert wrong == []
    assert grown < 0.05 * before
