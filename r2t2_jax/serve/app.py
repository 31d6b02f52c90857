"""The HTTP application: OpenAI's routes over a `Batcher`, with the limits of `guard`."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from r2t2_jax.contract import Turn
from r2t2_jax.runtime.batching import usable_cores
from r2t2_jax.serve.batching import Batcher, Pending
from r2t2_jax.serve.engine import AnsweredQuestion, Engine, ServedQuestion
from r2t2_jax.serve.guard import Access, Guard, read_body
from r2t2_jax.serve.images import ImageReader
from r2t2_jax.serve.metrics import Metrics
from r2t2_jax.serve.replies import DRAWS, Reply, complete, logprobs_content, rerouting_block
from r2t2_jax.serve.schemas import INTERNAL, ApiError, ChatRequest, ImagePart, Message, parse_request

LOGGER = logging.getLogger("r2t2.serve")
DISCONNECTED = 499  # of nginx: the client is gone
HOST_THREADS = max(1, min(4, usable_cores() // 2))  # decode images and prepare inputs; programs need the other cores
FETCH_THREADS = 4  # do so for requests whose images are fetched first
LARGE = 1 << 12  # numbers of a path; larger replies are written in a host thread


@dataclass(frozen=True)
class Service:
    """Everything that the routes use.

    Args:
        engine: the model with its references.
        batcher: the queue in front of it.
        metrics: of the server.
        reader: of images.
        name: of the model, as clients give it.
        aliases: strategies that are offered as models `NAME@STRATEGY`.
    """

    engine: Engine
    batcher: Batcher
    metrics: Metrics
    reader: ImageReader
    name: str
    aliases: tuple[str, ...]
    created: int = field(default_factory=lambda: int(time.time()))
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(HOST_THREADS, "r2t2-host"))
    fetching: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(FETCH_THREADS, "r2t2-fetch"))

    def models(self) -> list[dict[str, Any]]:
        """The entries of `GET /v1/models`: the model, and one for each strategy that is ready."""
        names = [self.name, *(f"{self.name}@{strategy}" for strategy in self.aliases)]
        entry = {"object": "model", "created": self.created, "owned_by": "r2t2"}
        engine, spec = self.engine, self.engine.port.model.spec
        about = {
            "strategy": engine.strategy,
            "strategies": list(engine.strategies),
            "presets": list(engine.presets),
            "layers": list(spec.layer_names),
            "experts": list(spec.experts),
            "max_new_tokens": engine.port.max_new_tokens,
        }
        return [{"id": name, **entry, "r2t2": about} for name in names]

    def question(self, request: ChatRequest, account: list[int]) -> ServedQuestion:
        """The question of a request, ready for the model; runs in a host thread.

        Raises:
            ApiError: the request cannot be answered; the message names the field.
        """
        rerouting = request.rerouting
        strategies = {self.name: ""} | {f"{self.name}@{alias}": alias for alias in self.aliases}
        strategy = strategies.get(request.model)
        if strategy is None:
            offered = ", ".join(entry["id"] for entry in self.models())
            reason = f"the model {request.model[:80]!r} does not exist; this server has {offered}"
            raise ApiError(404, reason, "model", "model_not_found")
        if strategy:
            if rerouting.strategy not in (None, strategy) or rerouting.routing is not None:
                reason = f"the model {request.model} names a strategy: leave strategy and routing out"
                raise ApiError(400, reason, "r2t2.strategy", "invalid_value")
            rerouting = rerouting.model_copy(update={"strategy": strategy})
        choice = self.engine.choose(rerouting)
        temperature = request.temperature or 0.0
        self.engine.check_decoding(choice, temperature, bool(request.logprobs))
        turns = [self._turn(message, f"messages[{i}]", account) for i, message in enumerate(request.messages)]
        return replace(
            self.engine.prepare(choice, turns),
            temperature=temperature,
            seed=DRAWS.getrandbits(32) if request.seed is None else request.seed,
            logprobs=bool(request.logprobs),
            before="before" in rerouting.returned,
            routes="routes" in rerouting.returned,
        )

    def _turn(self, message: Message, where: str, account: list[int]) -> Turn:
        """A message with its images decoded."""
        parts = [
            self.reader.read(part.image_url.url, f"{where}.content[{j}].image_url.url", account)
            if isinstance(part, ImagePart)
            else part.text
            for j, part in enumerate(message.content)
        ]
        return Turn("system" if message.role == "developer" else message.role, tuple(parts))

    async def chat(self, http: Request) -> Response:
        """Answer `POST /v1/chat/completions`.

        Raises:
            ApiError: as `read_body`, `parse_request`, `Batcher.place` and `question`.
        """
        start = time.perf_counter()
        with self.batcher.place(), self.reader.memory.account() as account:
            request = parse_request(await read_body(http))
            pending: Pending = Future()
            pool = self.fetching if self.reader.hosts and request.has_addresses else self.pool
            work = pool.submit(self._submit, request, account, pending)
            try:
                answered = await self._answered(http, pending)
            finally:
                if not (work.done() or work.cancel()):  # the client left: its pixels are counted until they are decoded
                    await asyncio.wait([asyncio.wrap_future(work)])
            if answered is None:
                return Response(status_code=DISCONNECTED)
            if answered.prediction.path.size > LARGE:
                loop = asyncio.get_running_loop()
                reply = await loop.run_in_executor(self.pool, self._reply, request, answered)
            else:  # takes less time than the switch of threads
                reply = self._reply(request, answered)
        self._count(answered, reply, time.perf_counter() - start)
        if request.stream:
            headers = {"Cache-Control": "no-cache"}
            return Response(b"".join(reply.events()), media_type="text/event-stream", headers=headers)
        return Response(reply.whole(), media_type="application/json")

    def _submit(self, request: ChatRequest, account: list[int], pending: Pending) -> None:
        """Prepare the question of a request and queue it, in a host thread; an error becomes that of the answer."""
        try:
            self.batcher.submit(self.question(request, account), pending)
        except Exception as error:
            with suppress(InvalidStateError):  # its client is gone
                pending.set_exception(error)

    async def _answered(self, http: Request, pending: Pending) -> AnsweredQuestion | None:
        """The answer; `None` if the client went away, whose place in the queue is then free."""
        answer = asyncio.wrap_future(pending)
        gone = asyncio.ensure_future(_disconnected(http))
        gone.add_done_callback(lambda _: answer.cancel())
        try:
            return await answer
        except asyncio.CancelledError:
            if gone.done():
                return None
            raise
        finally:
            gone.cancel()

    def _reply(self, request: ChatRequest, answered: AnsweredQuestion) -> Reply:
        port = self.engine.port
        completion = complete(port, answered, request.limit, request.stops)
        logprobs = None
        if request.logprobs:
            logprobs = logprobs_content(port, answered, len(completion.pieces), request.top_logprobs or 0)
        return Reply(
            request=request,
            model=request.model,
            fingerprint=port.fingerprint,
            completion=completion,
            prompt_tokens=answered.prompt_tokens,
            logprobs=logprobs,
            block=rerouting_block(answered, request.rerouting.returned),
        )

    def _count(self, answered: AnsweredQuestion, reply: Reply, seconds: float) -> None:
        prediction, metrics = answered.prediction, self.metrics
        metrics.answers.labels(prediction.strategy).inc()
        metrics.evaluations.inc(prediction.evaluations)
        metrics.tokens.inc(len(reply.completion.pieces))
        metrics.queue_seconds.observe(prediction.seconds.get("queue", 0.0))
        metrics.seconds.observe(seconds)


async def _disconnected(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _error(http: Request, error: Exception) -> JSONResponse:
    """An error as a reply; what is unexpected is logged, and not shown."""
    if isinstance(error, HTTPException):  # of the router
        names = {404: f"there is no {http.url.path[:80]}", 405: f"{http.method} is not allowed here"}
        message = names.get(error.status_code, "the request cannot be answered")
        error = ApiError(error.status_code, message, headers=error.headers)
    if not isinstance(error, ApiError):
        LOGGER.error("a request failed", exc_info=error)
        message = "internal error; the server's log has the details"
        error = ApiError(500, message, code="internal_error", kind=INTERNAL)
    return JSONResponse(error.content(), status_code=error.status, headers=error.headers)


def create_app(service: Service, access: Access) -> FastAPI:
    """The application; `page.mount_page` adds the page.

    Args:
        service: what the routes use.
        access: who may use them.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)  # the documentation pages load scripts from a CDN
    for kind in (ApiError, HTTPException, Exception):
        app.add_exception_handler(kind, _error)

    async def chat(http: Request) -> Response:
        """The answer to one question; every request is counted by its status."""
        status = 500
        try:
            reply = await service.chat(http)
            status = reply.status_code
            return reply
        except ClientDisconnect:
            status = DISCONNECTED
            return Response(status_code=DISCONNECTED)
        except ApiError as error:
            status = error.status
            raise
        except Exception as error:  # raised further, it would end the connection
            return await _error(http, error)
        finally:
            service.metrics.requests.labels(str(status)).inc()

    # Starlette's route, the first one: `parse_request` validates the body, so FastAPI would only add work.
    app.add_route("/v1/chat/completions", chat, methods=["POST"])

    @app.get("/health")
    async def health() -> dict[str, str]:
        """The process runs."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> JSONResponse:
        """Questions are answered at once (200), or the server warms up or ends (503)."""
        batcher = service.batcher
        return JSONResponse({"status": batcher.state}, status_code=200 if batcher.ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """The counters in Prometheus's format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The model, and one entry for each strategy that is ready."""
        return {"object": "list", "data": service.models()}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """One of the entries."""
        for entry in service.models():
            if entry["id"] == name:
                return entry
        raise ApiError(404, f"the model {name[:80]!r} does not exist", "model", "model_not_found")

    @app.api_route("/v1/{rest:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
    async def unknown(rest: str, http: Request) -> Response:
        """404, or 405 for another method of a route, in OpenAI's format."""
        method = "POST" if rest == "chat/completions" else "GET" if rest.split("/")[0] == "models" else None
        raise HTTPException(404) if method is None else HTTPException(405, headers={"Allow": method})

    app.add_middleware(functools.partial(Guard, access=access))
    return app
