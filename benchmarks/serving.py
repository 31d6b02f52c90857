"""Requests per second and latency of `r2t2 serve`: `python -m benchmarks.serving`.

The pocket model answers questions about scenes with `base` and `atlas`: through the server, from 1, 8 and 32 clients in
a process of their own on the same machine; and in a bare loop over the same compiled programs, which prepares,
encodes, retrieves, re-routes and generates in batches of the same size, one after another in one thread, without HTTP,
JSON, base64 or PNG. Both are measured after all programs are compiled, and alternate; a ratio is the median of the
ratios of neighboring parts. The processor time per request of the server, of the clients and of the bare loop is
recorded too; it depends less on what else the machine does. The memory of the server's process is recorded after each
part, and the cores that other processes use before the first.
The results go to `benchmarks/results/serving.json` and `docs/serve.md`.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tyro
from PIL import Image

from benchmarks.pages import write_results
from benchmarks.speed import BUSY, busy_cores
from r2t2_jax.contract import Sample, Turn
from r2t2_jax.datasets import load_dataset
from r2t2_jax.serve import Settings
from r2t2_jax.serve.app import Service, create_app
from r2t2_jax.serve.guard import Access
from r2t2_jax.serve.schemas import Rerouting
from r2t2_jax.serve.server import bind, make_server, open_service, serve

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "serving.json", ROOT / "docs" / "serve.md"
MODEL, STRATEGIES, QUESTIONS = "pocket:narrow", ("base", "atlas"), 50


def main(
    requests: int = 400,
    clients: tuple[int, ...] = (1, 8, 32),
    repeats: int = 3,
    batch_size: int = 4,
    machine: str = "2 CPU cores",
) -> None:
    """Measure and write the results.

    Args:
        requests: of each part.
        clients: numbers of clients.
        repeats: of each part; medians are recorded.
        batch_size: of the server and of the bare loop.
        machine: a few words.
    """
    recorded: dict[str, Any] = {"date": datetime.date.today().isoformat(), "machine": machine}
    recorded["command"] = " ".join(["python -m benchmarks.serving", *sys.argv[1:]])
    recorded |= {"cores": os.cpu_count(), "busy_cores_before": round(busy_cores(), 2)}
    recorded |= {"requests": requests, "repeats": repeats, "batch_size": batch_size, "model": MODEL}
    recorded["rows"] = measure(requests, clients, repeats, batch_size)
    RESULTS.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
    write_results(PAGE, page_table(recorded))
    print(page_table(recorded))


def measure(requests: int, clients: Sequence[int], repeats: int, batch_size: int) -> list[dict[str, Any]]:
    """A row for each strategy and number of clients; arguments as of `main`."""
    samples = load_dataset("pocket", "test", QUESTIONS, 0)
    rows: list[dict[str, Any]] = []
    settings = Settings(MODEL, strategy="base", warm=STRATEGIES, batch_size=batch_size, page=False)
    with running(settings) as (service, url), tempfile.TemporaryDirectory() as folder:
        for strategy in STRATEGIES:
            file = write_bodies(Path(folder) / f"{strategy}.jsonl", f"{service.name}@{strategy}", samples)
            bare_loop(service, strategy, samples, batch_size, QUESTIONS)  # also fills caches of the host
            through_server(url, file, QUESTIONS, max(clients))
            parts = {count: list[dict[str, float]]() for count in clients}
            for _ in range(repeats):
                bare = bare_loop(service, strategy, samples, batch_size, requests)
                for count in clients:
                    part = through_server(url, file, requests, count) | bare
                    parts[count].append(part | {"ratio": part["per_second"] / part["bare_per_second"]})
            for count, measured in parts.items():
                median = {name: round(float(np.median([part[name] for part in measured])), 3) for name in measured[0]}
                memory = {"rss_mib": psutil.Process().memory_info().rss >> 20}
                rows.append({"strategy": strategy, "clients": count} | median | memory)
                print(rows[-1], flush=True)
    return rows


def page_table(recorded: Mapping[str, Any]) -> str:
    """The results in Markdown, with what the machine did besides."""
    lines = [
        "| strategy | clients | requests per second | p50, ms | p99, ms | bare loop, questions per second | ratio "
        "| CPU ms per request: server | clients | bare loop |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for row in recorded["rows"]:
        numbers = [f"{row[name]:.1f}" for name in ("per_second", "p50_ms", "p99_ms", "bare_per_second")]
        numbers += [f"{row[name]:.2f}" for name in ("ratio", "server_cpu_ms", "client_cpu_ms", "bare_cpu_ms")]
        lines.append(" | ".join([f"| `{row['strategy']}`", str(row["clients"]), *numbers]) + " |")
    busy, cores = recorded["busy_cores_before"], recorded["cores"]
    state = f"Other processes used {busy:.1f} of {cores} cores before the start"
    if busy < BUSY:
        state += ": the machine had nothing else to do."
    else:
        state += ": **the machine was not idle**, so rates are below those of an idle one, and ratios vary."
    facts = (
        f"`{recorded['command']}`: {recorded['model']}, n = {recorded['requests']} requests per row, median of "
        f"{recorded['repeats']}, batches of up to {recorded['batch_size']}, {recorded['machine']}, {recorded['date']}."
    )
    more = (
        "Clients run on the same machine, in one thread of a process of their own that writes prepared bytes. The bare "
        "loop runs the same compiled programs on the same questions in batches of the same size, in one thread: it "
        "prepares a batch, then computes it. It has no HTTP, JSON, base64 or PNG. The server does these while programs "
        "run. CPU milliseconds are the processor time of all threads of the process."
    )
    return "\n".join([*lines, "", facts, state, more, ""])


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


def bare_loop(
    service: Service, strategy: str, samples: Sequence[Sample], batch_size: int, count: int
) -> dict[str, float]:
    """Questions per second of the engine in batches, without a server, and its processor time per question."""
    engine = service.engine
    choice = engine.choose(Rerouting(strategy=strategy))
    start, processor = time.perf_counter(), time.process_time()
    for first in range(0, count, batch_size):
        batch = [samples[i % len(samples)] for i in range(first, first + batch_size)]
        turns = [Turn("user", (sample.pixels(), sample.question)) for sample in batch]
        engine.answer([engine.prepare(choice, [turn]) for turn in turns])
    milliseconds = 1000 * (time.process_time() - processor) / count
    return {"bare_per_second": count / (time.perf_counter() - start), "bare_cpu_ms": milliseconds}


def through_server(url: str, file: Path, requests: int, clients: int) -> dict[str, float]:
    """Requests per second, quantiles of the latency in milliseconds, and milliseconds of processor time per request of
    this process, in which the server runs, and of the clients' process.
    """
    processor = time.process_time()
    results = send_from_process(url, file, requests, clients)
    processor = time.process_time() - processor
    assert all(reply["status"] == 200 for reply in results["replies"])
    milliseconds = [1000 * reply["seconds"] for reply in results["replies"]]
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return {
        "per_second": requests / results["seconds"],
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "server_cpu_ms": 1000 * processor / requests,
        "client_cpu_ms": 1000 * results["cpu_seconds"] / requests,
    }


def send_from_process(url: str, file: Path, requests: int, clients: int) -> dict[str, Any]:
    """The results of `benchmarks/serving_client.py` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.serving_client", url, str(file), str(requests), str(clients)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, cwd=ROOT)
    results: dict[str, Any] = json.loads(done.stdout)
    return results


if __name__ == "__main__":
    tyro.cli(main)
