"""Requests per second and latency of `r2t2 serve`: `python -m benchmarks.serving`.

The pocket model answers questions about scenes with `base` and `atlas`: through the server, from 1, 8 and 32 clients in
a process of their own on the same machine; and in a bare loop over the same compiled programs, which prepares,
encodes, retrieves, re-routes and generates in batches of the same size, without HTTP, JSON or PNG. Both are measured
after all programs are compiled, and alternate. The memory of the server's process is recorded after each part. The
results go to `benchmarks/results/serving.json`.
"""

from __future__ import annotations

import base64
import datetime
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tyro
from PIL import Image

from r2t2_jax.contract import Sample
from r2t2_jax.datasets import load_dataset
from r2t2_jax.serve.app import Service, create_app
from r2t2_jax.serve.guard import Access
from r2t2_jax.serve.schemas import Rerouting
from r2t2_jax.serve.server import Settings, bind, make_server, open_service, serve

RESULTS = Path(__file__).parent / "results" / "serving.json"
MODEL, STRATEGIES, QUESTIONS = "pocket:narrow", ("base", "atlas"), 50


def main(
    requests: int = 400,
    clients: tuple[int, ...] = (1, 8, 32),
    repeats: int = 3,
    batch_size: int = 4,
    machine: str = "2 CPU cores",
    out: Path = RESULTS,
) -> None:
    """Measure and write the results.

    Args:
        requests: of each part.
        clients: numbers of clients.
        repeats: of each part; the median is recorded.
        batch_size: of the server and of the bare loop.
        machine: a few words.
        out: file to write.
    """
    samples = load_dataset("pocket", "test", QUESTIONS, 0)
    rows: list[dict[str, Any]] = []
    settings = Settings(MODEL, strategy="base", warm=STRATEGIES, batch_size=batch_size, page=False)
    with running(settings) as (service, url), tempfile.TemporaryDirectory() as folder:
        for strategy in STRATEGIES:
            file = write_bodies(Path(folder) / f"{strategy}.jsonl", f"{service.name}@{strategy}", samples)
            bare_loop(service, strategy, samples, batch_size, QUESTIONS)  # also fills caches of the host
            rates = {count: list[dict[str, Any]]() for count in clients}
            bare = []
            for _ in range(repeats):
                bare.append(bare_loop(service, strategy, samples, batch_size, requests))
                for count in clients:
                    rates[count].append(through_server(url, file, requests, count))
            bare_rate = float(np.median(bare))
            for count, measured in rates.items():
                median = {name: float(np.median([each[name] for each in measured])) for name in measured[0]}
                row = {"strategy": strategy, "clients": count, **{k: round(v, 4) for k, v in median.items()}}
                row |= {"bare_per_second": round(bare_rate, 2), "ratio": round(row["per_second"] / bare_rate, 3)}
                rows.append(row | {"rss_mib": psutil.Process().memory_info().rss >> 20})
                print(rows[-1], flush=True)
    about = {"date": datetime.date.today().isoformat(), "machine": machine, "load": round(os.getloadavg()[2], 1)}
    about |= {"requests": requests, "repeats": repeats, "batch_size": batch_size, "model": MODEL}
    out.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n", encoding="utf-8")


@contextmanager
def running(settings: Settings) -> Iterator[tuple[Service, str]]:
    """A server in a thread, ready, and its address."""
    service, warming = open_service(settings)
    bound = bind("127.0.0.1", 0)
    server = make_server(create_app(service, Access()))
    service.batcher.start(warming)
    thread = threading.Thread(target=serve, args=(server, service, bound))
    thread.start()
    while not service.batcher.ready or not server.started:
        time.sleep(0.1)
    try:
        yield service, f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        service.batcher.drain()
        server.should_exit = True
        thread.join()
        service.batcher.close()


def write_bodies(path: Path, model: str, samples: Sequence[Sample]) -> Path:
    """A file with the body of a request per line."""

    def body(sample: Sample) -> dict[str, Any]:
        out = io.BytesIO()
        Image.fromarray(sample.pixels()).save(out, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
        content = [{"type": "text", "text": sample.question}, {"type": "image_url", "image_url": {"url": url}}]
        return {"model": model, "messages": [{"role": "user", "content": content}]}

    path.write_text("".join(json.dumps(body(sample)) + "\n" for sample in samples), encoding="utf-8")
    return path


def bare_loop(service: Service, strategy: str, samples: Sequence[Sample], batch_size: int, count: int) -> float:
    """Questions per second of the engine in batches, without a server."""
    engine = service.engine
    choice = engine.choose(Rerouting(strategy=strategy))
    start = time.perf_counter()
    for first in range(0, count, batch_size):
        batch = [samples[i % len(samples)] for i in range(first, first + batch_size)]
        engine.answer([engine.prepare(choice, [sample.pixels()], sample.question) for sample in batch])
    return count / (time.perf_counter() - start)


def through_server(url: str, file: Path, requests: int, clients: int) -> dict[str, float]:
    """Requests per second, and quantiles of the latency in milliseconds."""
    results = send_from_process(url, file, requests, clients)
    assert all(reply["status"] == 200 for reply in results["replies"])
    milliseconds = [1000 * reply["seconds"] for reply in results["replies"]]
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return {"per_second": requests / results["seconds"], "p50_ms": float(p50), "p99_ms": float(p99)}


def send_from_process(url: str, file: Path, requests: int, clients: int) -> dict[str, Any]:
    """The results of `benchmarks/serving_client.py` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.serving_client", url, str(file), str(requests), str(clients)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, cwd=Path(__file__).parents[1])
    results: dict[str, Any] = json.loads(done.stdout)
    return results


if __name__ == "__main__":
    tyro.cli(main)
