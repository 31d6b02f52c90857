"""Malformed and hostile requests: each has the right status in OpenAI's format, and the server still answers."""

import base64
import contextlib
import io
import json
import re
import socket
import struct
import threading
import zlib
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest
from PIL import Image

from r2t2_jax.serve import guard
from tests.serve.live import SAMPLE, Live, body, data_url, image_part, messages, until

PNG = base64.b64decode(data_url(SAMPLE.image).partition(",")[2])
TEXT = {"type": "text", "text": SAMPLE.question}


def changed(**fields: Any) -> bytes:
    return json.dumps(body(**fields)).encode()


def without(name: str) -> bytes:
    return json.dumps({key: value for key, value in body().items() if key != name}).encode()


def rerouted(**fields: Any) -> bytes:
    return changed(r2t2=fields)


def said(content: Any, role: str = "user") -> bytes:
    return changed(messages=[{"role": role, "content": content}])


def pictured(url: Any) -> bytes:
    return said([TEXT, image_part(url)])


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in a few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def large() -> bytes:
    out = io.BytesIO()
    Image.new("L", (1100, 1000)).save(out, "PNG")
    return out.getvalue()


NAN = json.dumps(body(r2t2={"routing": [float("nan"), 0.5, 0.5]})).encode()
CASES: dict[str, tuple[bytes, int, str | None]] = {  # body, status, and the field in the error
    "empty body": (b"", 400, None),
    "truncated": (changed()[:-40], 400, None),
    "no JSON": (b"question=What", 400, None),
    "no object": (b"[1, 2]", 400, None),
    "null": (b"null", 400, None),
    "not UTF-8": (b'{"model": "\xff\xfe"}', 400, None),
    "nested deeply": (b"[" * 100_000, 400, None),
    "nested in a field": (b'{"model": "toy", "messages": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}", 400, None),
    "NUL in a text": (said("What is left\0?"), 400, "messages[0].content[0]"),
    "lone surrogate": (said("What is \ud800?"), 400, None),
    "no model": (without("model"), 400, "model"),
    "model of a wrong type": (changed(model=7), 400, "model"),
    "unknown model": (changed(model="gpt-4o"), 404, "model"),
    "path as a model": (changed(model="../../etc/passwd"), 404, "model"),
    "unknown strategy in the model": (changed(model="toy@magic"), 404, "model"),
    "model and strategy": (changed(model="toy@base", r2t2={"strategy": "ngd"}), 400, "r2t2.strategy"),
    "empty model": (changed(model=""), 404, "model"),
    "model without its strategy": (changed(model="toy@"), 404, "model"),
    "strategy without its model": (changed(model="base"), 404, "model"),
    "model with two strategies": (changed(model="toy@base@ngd"), 404, "model"),
    "no messages": (without("messages"), 400, "messages"),
    "empty messages": (changed(messages=[]), 400, "messages"),
    "messages of a wrong type": (changed(messages="What is left?"), 400, "messages"),
    "too many messages": (changed(messages=messages(SAMPLE) * 65), 400, "messages"),
    "several turns": (changed(messages=messages(SAMPLE) * 2), 400, "messages"),
    "an assistant's turn at the end": (said("red", "assistant"), 400, "messages"),
    "a tool's turn": (said("red", "tool"), 400, "messages[0].role"),
    "system only": (said("Be brief.", "system"), 400, "messages"),
    "image of the system": (said([image_part(data_url(SAMPLE.image))], "system"), 400, "messages[0].content[0]"),
    "empty content": (said([]), 400, "messages[0].content"),
    "content of a wrong type": (said(7), 400, "messages[0].content"),
    "empty question": (said("  "), 400, "messages"),
    "long text": (said("What is left? " * 3000), 400, "messages"),
    "text too long for the model": (said("x" * 20_000 + " left?"), 400, "messages"),
    "no content": (said(None), 400, "messages[0].content"),
    "nothing in the content": (said([None]), 400, "messages[0].content[0]"),
    "tool calls": (
        changed(messages=[{"role": "assistant", "content": "red", "tool_calls": [{}]}, *messages(SAMPLE)]),
        400,
        "messages[0].tool_calls",
    ),
    "audio": (said([TEXT, {"type": "input_audio", "input_audio": {"data": ""}}]), 400, "messages[0].content[1]"),
    "part without a type": (said([{"text": "What is left?"}]), 400, "messages[0].content[0]"),
    "part with an unknown field": (said([{**TEXT, "font": "x"}]), 400, "messages[0].content[0].font"),
    "image without an address": (said([{"type": "image_url"}]), 400, "messages[0].content[0].image_url"),
    "address of a wrong type": (pictured(7), 400, "messages[0].content[1].image_url.url"),
    "web address": (pictured("https://example.org/a.png"), 400, "messages[0].content[1].image_url.url"),
    "metadata service": (pictured("http://169.254.169.254/latest"), 400, "messages[0].content[1].image_url.url"),
    "file address": (pictured("file:///etc/passwd"), 400, "messages[0].content[1].image_url.url"),
    "odd address": (pictured("http://[::1"), 400, "messages[0].content[1].image_url.url"),
    "no base64": (pictured("data:image/png,abc"), 400, "messages[0].content[1].image_url.url"),
    "parameter without a value": (
        pictured("data:image/png;a;base64,QQ=="),
        400,
        "messages[0].content[1].image_url.url",
    ),
    "text in a data URL": (pictured("data:text/plain;base64,QQ=="), 400, "messages[0].content[1].image_url.url"),
    "base64 in lines": (pictured("data:image/png;base64,QUFB\nQUFB"), 400, "messages[0].content[1].image_url.url"),
    "URL-safe base64": (pictured("data:image/png;base64,_-8="), 400, "messages[0].content[1].image_url.url"),
    "bad base64": (pictured("data:image/png;base64,@@@@"), 400, "messages[0].content[1].image_url.url"),
    "base64 beyond ASCII": (pictured("data:image/png;base64,äöü"), 400, "messages[0].content[1].image_url.url"),
    "empty image": (pictured("data:image/png;base64,"), 400, "messages[0].content[1].image_url.url"),
    "text as an image": (pictured(data_url(b"hello")), 400, "messages[0].content[1].image_url.url"),
    "PostScript as an image": (
        pictured(data_url(b"%!PS-Adobe-3.0 EPSF-3.0\n")),
        400,
        "messages[0].content[1].image_url.url",
    ),
    "SVG as an image": (pictured(data_url(b"<svg></svg>", "svg+xml")), 400, "messages[0].content[1].image_url.url"),
    "cut image": (pictured(data_url(PNG[:40])), 400, "messages[0].content[1].image_url.url"),
    "damaged image": (pictured(data_url(PNG[:45] + b"\0" * 20)), 400, "messages[0].content[1].image_url.url"),
    "decompression bomb": (pictured(data_url(bomb())), 400, "messages[0].content[1].image_url.url"),
    "image of many pixels": (pictured(data_url(large())), 413, "messages[0].content[1].image_url.url"),
    "encoded image too large": (
        pictured("data:image/png;base64," + "A" * (23 << 20)),
        413,
        "messages[0].content[1].image_url.url",
    ),
    "two images": (said([TEXT, *[image_part(data_url(SAMPLE.image))] * 2]), 400, "messages"),
    "unknown field": (changed(best_of=4), 400, "best_of"),
    "several answers": (changed(n=2), 400, "n"),
    "boolean number of answers": (changed(n=True), 400, "n"),
    "negative tokens": (changed(max_tokens=-1), 400, "max_tokens"),
    "tokens as text": (changed(max_tokens="10"), 400, "max_tokens"),
    "far too many tokens": (changed(max_tokens=10**12), 400, "max_tokens"),
    "negative temperature": (changed(temperature=-0.1), 400, "temperature"),
    "NaN temperature": (changed(temperature=float("nan")), 400, "temperature"),
    "infinite temperature": (changed(temperature=float("inf")), 400, "temperature"),
    "top_p": (changed(top_p=0.5, temperature=1), 400, "top_p"),
    "negative top_p": (changed(top_p=-0.5), 400, "top_p"),
    "penalty": (changed(presence_penalty=0.5), 400, "presence_penalty"),
    "JSON mode": (changed(response_format={"type": "json_object"}), 400, "response_format"),
    "tools": (changed(tools=[{"type": "function", "function": {"name": "f"}}]), 400, "tools"),
    "stop of a wrong type": (changed(stop=[1]), 400, "stop"),
    "empty stop": (changed(stop=[""]), 400, "stop"),
    "many stops": (changed(stop=["a"] * 17), 400, "stop"),
    "huge seed": (changed(seed=2**70), 400, "seed"),
    "top_logprobs without logprobs": (changed(top_logprobs=2), 400, "top_logprobs"),
    "too many top_logprobs": (changed(logprobs=True, top_logprobs=21), 400, "top_logprobs"),
    "stream as text": (changed(stream="yes"), 400, "stream"),
    "stream_options without stream": (changed(stream_options={}), 400, "stream_options"),
    "empty strategy": (rerouted(strategy=""), 400, "r2t2.strategy"),
    "unknown strategy": (rerouted(strategy="magic"), 400, "r2t2.strategy"),
    "strategy that needs labels": (rerouted(strategy="oracle"), 400, "r2t2.strategy"),
    "unknown preset": (rerouted(preset="magic"), 400, "r2t2.preset"),
    "file as a preset": (rerouted(preset="/etc/passwd.json"), 400, "r2t2.preset"),
    "unknown part of the reply": (rerouted(**{"return": ["weights"]}), 400, "r2t2.return[0]"),
    "unknown field of r2t2": (rerouted(seed=1), 400, "r2t2.seed"),
    "NaN routing": (NAN, 400, "r2t2.routing"),
    "huge routing": (rerouted(routing=[10**400, 0, 0]), 400, None),
    "routing of another shape": (rerouted(routing=[[1, 0, 0]]), 400, "r2t2.routing"),
    "ragged routing": (rerouted(routing=[[1, 0, 0], [1]]), 400, "r2t2.routing"),
    "routing of texts": (rerouted(routing=["a", "b", "c"]), 400, "r2t2.routing"),
    "empty routing": (rerouted(routing=[]), 400, "r2t2.routing"),
    "deep routing": (rerouted(routing=[[[1]], [[1]]]), 400, "r2t2.routing"),
    "routing and a strategy": (rerouted(routing=[1, 0, 0], strategy="ngd"), 400, "r2t2.strategy"),
    "no steering": (rerouted(steer={"boost": [0]}), 400, "r2t2.steer"),
    "steering of a wrong type": (rerouted(steer="steer.json"), 400, "r2t2.steer"),
    "steering of an unknown expert": (rerouted(steer={"steering": 1, "rules": [{"mask": [9]}]}), 400, "r2t2.steer"),
    "NaN in a steering": (
        changed(r2t2={"steer": {"steering": 1, "rules": [{"boost": [0], "lambda": float("nan")}]}}),
        400,
        None,
    ),
    "steering and a strategy": (
        rerouted(steer={"steering": 1, "rules": [{"mask": [0]}]}, strategy="ngd"),
        400,
        "r2t2.strategy",
    ),
}


def check_error(reply: httpx.Response, status: int) -> dict[str, Any]:
    assert reply.status_code == status, reply.text[:500]
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert not re.search(r"Traceback|site-packages|File \"|(?<![\w.])/(home|root|usr|work|tmp|opt)/", reply.text)
    return error


@pytest.mark.parametrize("name", CASES)
def test_a_malformed_request_is_refused_and_the_server_still_answers(live: Live, name: str) -> None:
    content, status, field = CASES[name]
    with httpx.Client(base_url=live.url, timeout=600, trust_env=False) as client:
        kind = {"content-type": "application/json"}
        error = check_error(client.post("/v1/chat/completions", content=content, headers=kind), status)
        assert field is None or error["param"] == field
        assert client.get("/ready").status_code == 200


def test_after_all_of_them_questions_are_answered(live: Live) -> None:
    reply = httpx.post(f"{live.url}/v1/chat/completions", json=body(), timeout=600)
    assert reply.status_code == 200
    assert live.service.reader.memory.used == 0 and live.service.batcher._taken == 0


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/v1/chat/completions", {}, 405),
        ("POST", "/v1/models", {}, 405),
        ("POST", "/v1/embeddings", {}, 404),
        ("GET", "/v1/models/gpt-4o", {}, 404),
        ("GET", "/v1/models/..%2f..%2fetc%2fpasswd", {}, 404),
        ("POST", "/v1/chat/completions", {"content-type": "text/plain"}, 415),
        ("POST", "/v1/chat/completions", {"content-type": "application/json", "content-length": "99999999999"}, 413),
        ("GET", "/v1/models", {"x-large": "a" * 20_000}, 431),
        ("GET", "/v1/models", {"host": "attacker.example"}, 403),
        ("DELETE", "/v1/models/toy", {}, 405),
        ("POST", "/v1/chat/completions", {"content-type": "application/json", "content-encoding": "gzip"}, 415),
    ],
)
def test_other_requests_are_refused(live: Live, method: str, path: str, headers: dict[str, str], status: int) -> None:
    with httpx.Client(base_url=live.url, timeout=600, trust_env=False) as client:
        if "content-length" in headers:  # httpx sends what it states: speak HTTP here
            lines = [f"POST {path} HTTP/1.1", "host: localhost", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
            assert f" {status} ".encode() in exchange(live, "\r\n".join(lines).encode())
            return
        reply = client.request(method, path, headers=headers)
        check_error(reply, status)
        assert status != 405 or reply.headers["allow"] in ("GET", "POST")


def test_a_request_of_two_hosts_is_refused(live: Live) -> None:
    assert b" 400 " in exchange(live, b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nhost: attacker.example\r\n\r\n")


@pytest.mark.parametrize(
    "head", ["DATA:IMAGE/PNG;BASE64,", "data:image/png;charset=utf-8;name=a.png;base64,", "data:;base64,"]
)
def test_data_urls_of_other_spellings_are_read(live: Live, head: str) -> None:
    url = head + data_url(SAMPLE.image).partition(",")[2]
    content = [{"type": "text", "text": SAMPLE.question}, image_part(url)]
    request = body(messages=[{"role": "user", "content": content}], r2t2={"strategy": "base"})
    assert httpx.post(f"{live.url}/v1/chat/completions", json=request, timeout=600).status_code == 200


def test_an_unexpected_error_does_not_end_the_connection(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("/secret/model")

    monkeypatch.setattr(type(live.service.engine.port.processor), "prepare", fail)
    connection = HTTPConnection("127.0.0.1", live.number)
    connection.request("POST", "/v1/chat/completions", changed(), {"content-type": "application/json"})
    reply, used = connection.getresponse(), connection.sock
    text = reply.read().decode()
    assert (reply.status, json.loads(text)["error"]["code"]) == (500, "internal_error") and "secret" not in text
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200 and connection.sock is used
    connection.close()


def exchange(live: Live, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", live.number), timeout=600) as connection:
        with contextlib.suppress(ConnectionError):  # the server stops reading what is too large
            connection.sendall(sent)
        return connection.recv(1 << 16)


def test_bytes_that_are_not_http_and_headers_without_end_are_refused(live: Live) -> None:
    assert b" 400 " in exchange(live, b"\x16\x03\x01\x02\x00\r\n\r\n")
    head, chunked = b"HTTP/1.1\r\nhost: localhost\r\n", b"transfer-encoding: chunked\r\n\r\n"
    endless = {
        "header": b"GET / HTTP/1.1\r\nx: " + b"a" * 100_000,
        "address": b"GET /" + b"a" * 100_000,
        "headers": b"GET / " + head + b"x: a\r\n" * 20_000,
        "extension of a chunk": b"POST / " + head + chunked + b"1;" + b"a" * 100_000,
        "trailer": b"POST / " + head + chunked + b"1\r\na\r\n0\r\nx: " + b"a" * 100_000,
        "trailers": b"POST / " + head + chunked + b"1\r\na\r\n0\r\n" + b"x: a\r\n" * 20_000,
    }
    for name, sent in endless.items():
        assert b" 400 " in exchange(live, sent), name


def test_a_request_that_offers_http2_is_answered_with_its_body(live: Live) -> None:
    content = changed(r2t2={"strategy": "base", "return": []}, user="u" * 50_000)
    offer = "connection: Upgrade, HTTP2-Settings\r\nhttp2-settings: AAEAAEAAAAIAAAABAAMAAABk\r\nupgrade: h2c\r\n"
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    plain = f"{head}content-length: {len(content)}\r\n\r\n".encode() + content
    offering = f"{head}{offer}content-length: {len(content)}\r\n\r\n".encode() + content
    with socket.create_connection(("127.0.0.1", live.number), timeout=600) as connection:
        for sent in (offering, plain, offering):
            connection.sendall(sent)
            reply = connection.recv(1 << 16)
            while b'"r2t2"' not in reply:
                received = connection.recv(1 << 16)
                assert received, reply
                reply += received
            assert b" 200 " in reply
    assert b" 400 " in exchange(live, b"CONNECT localhost:80 HTTP/1.1\r\nhost: localhost\r\n\r\n")


def test_a_body_in_many_small_chunks_is_read(live: Live) -> None:
    content = changed(r2t2={"strategy": "base", "return": []})
    pieces = [content[start : start + 3] for start in range(0, len(content), 3)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    assert b" 200 " in exchange(live, head + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")


def test_a_client_that_is_slow_or_gone_does_not_keep_its_place(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.05)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    head += b"content-length: 100\r\n\r\n"
    assert b" 408 " in exchange(live, head + b'{"model"')
    monkeypatch.undo()
    with socket.create_connection(("127.0.0.1", live.number)) as connection:
        connection.sendall(head + b'{"model"')
    until(lambda: not live.service.batcher._taken)  # the server notices that the client is gone


def test_a_client_that_leaves_several_requests_does_not_keep_a_place(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher, released = live.service.batcher, threading.Event()
    answer = batcher._answer
    monkeypatch.setattr(batcher, "_answer", lambda questions: released.wait() and answer(questions))
    content = changed(r2t2={"strategy": "base"})
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", live.number)) as connection:
        connection.sendall((f"{head}content-length: {len(content)}\r\n\r\n".encode() + content) * 3)
        until(lambda: batcher._taken and not batcher._waiting)  # the first one runs
    until(lambda: not batcher._taken)
    released.set()
