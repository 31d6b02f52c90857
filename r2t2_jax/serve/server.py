"""Opens a model and serves it until SIGTERM or SIGINT, which finish the accepted requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
import uvicorn

from r2t2_jax.bank.manifest import read_manifest
from r2t2_jax.contract import Port, Turn
from r2t2_jax.datasets import load_dataset
from r2t2_jax.errors import R2T2Error, missing_extra
from r2t2_jax.evaluation.setup import open_port, reference_set, with_decoding
from r2t2_jax.inference import open_references
from r2t2_jax.methods import METHODS
from r2t2_jax.runtime.compilation_cache import enable_compilation_cache
from r2t2_jax.runtime.typed_files import read_text
from r2t2_jax.serve import Settings
from r2t2_jax.serve.app import Service, create_app
from r2t2_jax.serve.batching import Batcher
from r2t2_jax.serve.engine import Engine, ServedQuestion
from r2t2_jax.serve.guard import Access, BoundedHttp, is_loopback
from r2t2_jax.serve.images import ImageReader
from r2t2_jax.serve.metrics import Metrics
from r2t2_jax.serve.schemas import ApiError, Rerouting

LOGGER = logging.getLogger("r2t2.serve")
KEEP_ALIVE, MAX_CONNECTIONS = 5, 1024
MIN_KEY = 8  # characters
SWITCH_SECONDS = 1e-4  # that a thread keeps Python's lock while another waits for it; 5e-3 is Python's default
WARM_SIDE = 96  # pixels of the gray image with which programs are compiled where the bank has no image


def check_settings(settings: Settings) -> None:
    """Raise `R2T2Error` for settings that cannot be served, before a model is loaded."""
    for name in (settings.strategy, *settings.warm):
        if name not in METHODS:
            raise R2T2Error(f"unknown strategy {name!r}; choose one of {', '.join(METHODS)}")
    if not is_loopback(settings.host) and settings.api_key_file is None and settings.auth:
        hint = "give --api-key-file FILE, or --no-auth to serve everyone"
        raise R2T2Error(f"--host {settings.host} is open to other machines: {hint}")


def read_key(path: Path) -> str:
    """The API key in a file.

    Raises:
        R2T2Error: the file cannot be read, or holds no key of one line.
    """
    try:
        key = read_text(path).strip()
    except R2T2Error as error:
        raise R2T2Error(f"cannot read --api-key-file {path}: {error}") from error
    if not key.isascii() or not key.isprintable() or " " in key or len(key) < MIN_KEY:
        raise R2T2Error(f"--api-key-file {path} must hold one key of at least {MIN_KEY} letters, digits and signs")
    return key


def open_service(settings: Settings, port: Port | None = None) -> tuple[Service, list[ServedQuestion]]:
    """The service of a model, and the questions that compile its programs; nothing is listened to yet.

    Args:
        settings: the options.
        port: the model; by default it is opened by its name.

    Raises:
        R2T2Error: model, bank, strategies or preset cannot be opened, or do not fit.
    """
    check_settings(settings)
    if settings.bank is not None:
        read_manifest(settings.bank)  # before the model is loaded
    enable_compilation_cache()
    # The device thread waits for its program: on a CPU it runs the program itself, which saves a switch of threads.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if port is None:
        port = with_decoding(open_port(settings.model, settings.embedder, settings.preset), settings.beams)
    if settings.max_new_tokens is not None:
        port = replace(port, max_new_tokens=settings.max_new_tokens)
    needed = {settings.strategy, *settings.warm} - {"base"}
    bank = None
    if needed or settings.bank is not None:
        samples = [] if settings.bank is not None else load_dataset(reference_set(port), "reference", 1)
        bank = open_references(port, settings.bank, samples)
    engine = Engine(port, bank, settings.strategy, settings.preset, settings.vmap_size)
    metrics = Metrics()
    batcher = Batcher(engine.answer, settings.queue, settings.batch_size, metrics)
    warm = tuple(dict.fromkeys((settings.strategy, *settings.warm)))
    aliases = tuple(dict.fromkeys(("base", *warm)))
    reader = ImageReader(settings.allow_image_host)
    service = Service(engine, batcher, metrics, reader, settings.model_name or port.name, aliases)
    return service, _warming(engine, warm)


def _warming(engine: Engine, strategies: Sequence[str]) -> list[ServedQuestion]:
    """A question for each strategy, of the shapes of the first reference."""
    gray = np.full((WARM_SIDE, WARM_SIDE, 3), 127, np.uint8)
    text = "" if engine.bank is None else str(engine.bank.records[0].get("question") or "")
    questions = []
    for name in strategies:
        choice = engine.choose(Rerouting(strategy=name))
        for images in ([gray], []):  # a model that reads text only refuses the image
            with contextlib.suppress(ApiError):
                questions.append(engine.prepare(choice, [Turn("user", (*images, text or "What is this?"))]))
                break
    return questions


def bind(host: str, port: int) -> socket.socket:
    """A socket of an address; connections are refused until the server listens.

    Raises:
        R2T2Error: the address is in use or not this machine's.
    """
    # Without the protocol asyncio does not set TCP_NODELAY: replies wait 40 ms for the acknowledgement of their heads.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, UnicodeError) as error:
        bound.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise R2T2Error(f"cannot listen on {host}:{port} ({reason}): choose another --port or --host") from None
    return bound


class Server(uvicorn.Server):
    """Uvicorn without handlers of signals: `serve` sets its own, which drain the queue."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `serve`."""
        yield


def make_server(app: Any) -> Server:
    """The server of an application, with limits on connections and headers."""
    return Server(
        uvicorn.Config(
            app,
            http=BoundedHttp,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE,
            limit_concurrency=MAX_CONNECTIONS,
        )
    )


def serve(server: Server, service: Service, bound: socket.socket) -> None:
    """Serve until a signal; then answer the accepted requests, and return. Runs on uvloop where it is installed.

    The device thread takes Python's lock after each program that it waits for. With Python's default the device has
    nothing to do for milliseconds whenever another thread parses a request or writes a reply.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(min(interval, SWITCH_SECONDS))
    try:
        with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
            runner.run(_serve(server, service, bound))
    finally:
        sys.setswitchinterval(interval)


async def _serve(server: Server, service: Service, bound: socket.socket) -> None:

    def stop() -> None:
        service.batcher.drain()
        if server.should_exit:  # a second signal
            logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
            server.force_exit = True
        server.should_exit = True

    if threading.current_thread() is threading.main_thread():
        _on_signals(asyncio.get_running_loop(), stop)
    await server.serve(sockets=[bound])


def _on_signals(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    """Call `stop` in the loop on SIGTERM and SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop)
        except NotImplementedError:  # the loop of Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))


def run_server(settings: Settings) -> None:
    """Open the model, listen, and serve until SIGTERM or SIGINT.

    Raises:
        R2T2Error: as `open_service`, `bind` and `mount_page`.
    """
    check_settings(settings)
    key = "" if settings.api_key_file is None else read_key(settings.api_key_file)
    logging.basicConfig(level=logging.WARNING, format="r2t2: %(message)s", stream=sys.stderr)
    with contextlib.closing(bind(settings.host, settings.port)) as bound:
        service, warming = open_service(settings)
        access = Access(key if settings.auth else "", is_loopback(settings.host))
        app = create_app(service, access)
        page = settings.page and find_spec("gradio") is not None
        if page:
            from r2t2_jax.serve.page import mount_page

            mount_page(app, service, access)
        elif settings.page:
            LOGGER.warning("no page: %s", missing_extra("it", "gradio", "serve"))
        port = bound.getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        print(f"{service.name} with {settings.strategy}: http://{host}:{port}/v1")
        if page:
            print(f"page: http://{host}:{port}/")
        sys.stdout.flush()
        service.batcher.start(warming)
        serve(make_server(app), service, bound)
        service.batcher.close()
        service.pool.shutdown()
        service.fetching.shutdown()
