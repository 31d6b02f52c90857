"""Limits of every request before it reaches a route: size of its head, host, key, and the body with its time."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from r2t2_jax.serve.schemas import AUTHENTICATION, ApiError

MAX_HEADERS = 16 << 10  # bytes
MAX_HEAD = 2 * MAX_HEADERS  # above it a connection is closed before the request is complete
MAX_BODY = 32 << 20
BODY_SECONDS = 30.0  # for a client to send its body
PROTECTED = ("/v1", "/metrics")  # the page has its own login
SOURCES = "'self' data: blob:"
POLICY = f"default-src {SOURCES} 'unsafe-inline' 'unsafe-eval'; connect-src {SOURCES}; frame-ancestors 'self'"
ADDED = [(b"content-security-policy", POLICY.encode()), (b"x-content-type-options", b"nosniff")]


@lru_cache(256)  # one for most requests
def is_loopback(host: str) -> bool:
    """Whether a host or an address is this machine's own."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Access:
    """Who may use a server.

    Args:
        key: that clients must send; empty for none.
        local: the server listens on this machine only, and refuses other names of it, so that no website that a user
            visits can use it under a name of its own.
    """

    key: str = ""
    local: bool = True

    def accepts(self, key: str) -> bool:
        """Whether a key is the right one; takes the same time for every wrong key."""
        return hmac.compare_digest(key.encode("utf-8", "replace"), self.key.encode("utf-8"))


class BoundedHttp(HttpToolsProtocol):
    """Uvicorn's protocol on llhttp, which bounds no part of a request: status 400 for one whose parts besides the body
    (address, headers, trailers, framing of chunks) are larger than `MAX_HEAD`. A request that offers another protocol,
    as Java's clients offer HTTP/2, is answered as one that does not: llhttp would skip its body.
    """

    _answering: RequestResponseCycle | None = None
    _head = 0  # bytes of address, headers and trailers of the request so far
    _pending = 0  # received bytes that do not complete a part

    def data_received(self, data: bytes) -> None:
        """Parse received bytes, a slice at a time, so that at most a slice is not counted in an incomplete part."""
        for start in range(0, len(data), MAX_HEADERS):
            piece = data[start : start + MAX_HEADERS]
            self._pending += len(piece)
            self._feed(piece)
            if self.transport.is_closing():
                return
            if self._pending > MAX_HEAD:
                self.send_400_response("The request has a part that is too large.")
                return

    def _feed(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        except HttpParserUpgrade as offer:
            if self.scope is None or self.parser.get_method() == b"CONNECT":
                self.send_400_response("Other protocols than HTTP are not supported.")
                return
            head = self._head_without_offer()
            self.parser = HttpRequestParser(self)
            self._feed(head + data[offer.args[0] :])

    def _head_without_offer(self) -> bytes:
        """The head of the request without the headers that offer another protocol."""
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip() for option in value.split(b",")]
                value = b", ".join(option for option in options if option.lower() != b"upgrade")
            if name != b"upgrade":
                lines.append(b"%b: %b" % (name, value))
        return b"\r\n".join([*lines, b"", b""])

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: the request that is answered learns it, and those behind it are dropped."""
        self.pipeline.clear()
        if self._answering is not None:  # Uvicorn does so for the last request of the connection
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head = self._pending = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A piece of the address."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete; one that offers another protocol is parsed again without the offer."""
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body, which `read_body` bounds."""
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._pending = 0
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _count(self, size: int) -> None:
        self._head += size
        self._pending = 0
        if self._head > MAX_HEAD:
            raise ValueError("the head is too large")  # llhttp stops, and uvicorn answers 400


class Guard:
    """Middleware that refuses requests by their headers, and forbids pages to load anything from elsewhere."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *ADDED]
            await send(message)

        try:
            self._check(scope)
        except ApiError as error:
            reply = JSONResponse(error.content(), status_code=error.status, headers=error.headers)
            await reply(scope, receive, send_with_policy)
            return
        await self._app(scope, receive, send_with_policy)

    def _check(self, scope: Scope) -> None:
        """Raise `ApiError` for a request that is refused."""
        size = sum(len(name) + len(value) for name, value in scope["headers"]) + len(scope.get("query_string", b""))
        if size > MAX_HEADERS:
            raise ApiError(431, f"the headers have {size:,} bytes; at most {MAX_HEADERS:,} are read")
        headers = Headers(scope=scope)
        if len(headers.getlist("host")) > 1:
            raise ApiError(400, "the request names several hosts", code="host_refused")
        if self._access.local and not is_loopback(_host_of(headers.get("host", ""))):
            raise ApiError(403, "this server answers under localhost only", code="host_refused")
        path: Any = scope["path"]
        if not self._access.key or not path.startswith(PROTECTED):
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not self._access.accepts(key.strip()):
            message = "give the API key of this server: Authorization: Bearer KEY"
            headers_ = {"WWW-Authenticate": "Bearer"}
            raise ApiError(401, message, code="invalid_api_key", kind=AUTHENTICATION, headers=headers_)


class FolderAlias:
    """Middleware of the page: a folder of this machine has another name for clients.

    Gradio names the files of uploads and examples by their paths in replies, and reads these names in requests.
    """

    def __init__(self, app: ASGIApp, folder: str, alias: str) -> None:
        self._app, self._folder, self._alias = app, folder.encode(), alias.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request with the names replaced in its address and body, and in texts of the reply."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_text = False  # of the reply

        async def receive_inward() -> Message:
            message = await receive()
            body = bytearray(message.get("body", b""))
            while message.get("more_body") and len(body) <= MAX_BODY:
                message = await receive()
                body += message.get("body", b"")
            if message["type"] != "http.request":
                return message
            return {"type": "http.request", "body": self._inward(bytes(body)), "more_body": False}

        async def send_outward(message: Message) -> None:
            nonlocal is_text
            if message["type"] == "http.response.start":
                headers = Headers(raw=message["headers"])
                is_text = headers.get("content-type", "").startswith(("text/html", "application/json", "text/event"))
                if is_text:
                    kept = [pair for pair in message["headers"] if pair[0].lower() != b"content-length"]
                    message = {**message, "headers": kept}
            elif is_text and message.get("body"):
                message = {**message, "body": message["body"].replace(self._folder, self._alias)}
            await send(message)

        headers, more = Headers(scope=scope), dict[str, Any]()
        is_json = headers.get("content-type", "").startswith("application/json")
        if not scope["path"].startswith(("/assets", "/static")):  # in a compressed reply no name could be replaced
            dropped = (b"accept-encoding", b"content-length") if is_json else (b"accept-encoding",)
            more["headers"] = [pair for pair in scope["headers"] if pair[0].lower() not in dropped]
        more["path"] = self._inward(scope["path"].encode()).decode()
        more |= {name: self._inward(scope.get(name) or b"") for name in ("raw_path", "query_string")}
        await self._app({**scope, **more}, receive_inward if is_json else receive, send_outward)

    def _inward(self, content: bytes) -> bytes:
        return content.replace(self._alias, self._folder)


def _host_of(header: str) -> str:
    """The host in a `Host` header, without the port."""
    return header.partition("]")[0] + "]" if header.startswith("[") else header.partition(":")[0]


async def read_body(http: Request) -> bytes:
    """The JSON body of a request.

    Raises:
        ApiError: 415 for another type, 413 for a body that is too large, 408 for a client that is too slow.
    """
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "send JSON: Content-Type: application/json", code="unsupported_media_type")
    if http.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise ApiError(415, "send the body uncompressed: no Content-Encoding", code="unsupported_media_type")
    too_large = ApiError(413, f"the body is larger than {MAX_BODY:,} bytes", code="body_too_large")
    stated = http.headers.get("content-length", "0")
    if stated.isascii() and stated.isdigit() and int(stated[:20]) > MAX_BODY:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in http.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise too_large
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {BODY_SECONDS:.0f} s", code="body_timeout") from None
    return bytes(body)
