"""Who may use a server: keys, hosts, image addresses, and the options of `r2t2 serve`."""

import asyncio
import builtins
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from r2t2_jax.cli.main import main
from r2t2_jax.serve.guard import Access, FolderAlias, is_loopback
from r2t2_jax.serve.images import ImageReader
from r2t2_jax.serve.schemas import ApiError, without_folders
from r2t2_jax.serve.server import bind
from tests.serve.live import SAMPLE, Live, body, data_url, live_server, until

KEY = "correct-horse"


@pytest.fixture(scope="module")
def locked(live: Live) -> Iterator[Live]:
    with live_server(live.service.engine, Access(KEY, local=False)) as server:
        yield server


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("", 401),
        (KEY, 401),
        (f"Basic {KEY}", 401),
        ("Bearer", 401),
        (f"Bearer {KEY}x", 401),
        (f"Bearer {KEY[:-1]}", 401),
        ("Bearer ä", 401),
        (f"Bearer {KEY}", 200),
    ],
)
def test_the_key_is_required_for_the_api(locked: Live, header: str | None, status: int) -> None:
    headers = {} if header is None else {b"authorization": header.encode()}
    with httpx.Client(base_url=locked.url, headers=headers, timeout=600, trust_env=False) as client:
        for path in ("/v1/models", "/metrics"):
            assert client.get(path).status_code == status
        reply = client.post("/v1/chat/completions", json=body(r2t2={"strategy": "base"}))
        assert reply.status_code == status
        if status == 401:
            assert reply.json()["error"]["type"] == "authentication_error" and KEY not in reply.text
        assert client.get("/health").status_code == client.get("/ready").status_code == 200


def test_a_server_of_a_network_answers_under_any_name(locked: Live) -> None:
    headers = {"host": "models.example", "authorization": f"Bearer {KEY}"}
    assert httpx.get(f"{locked.url}/v1/models", headers=headers, trust_env=False).status_code == 200


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *((host, True) for host in ("127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example", "")),
    ],
)
def test_loopback_is_this_machine_only(host: str, local: bool) -> None:
    assert is_loopback(host) is local


class Images(BaseHTTPRequestHandler):
    """A host of images."""

    def do_GET(self) -> None:
        content = httpx.URL(data_url(SAMPLE.image)).path.encode() if self.path == "/text" else Images.png
        self.send_response({"/moved.png": 302, "/missing.png": 404}.get(self.path, 200))
        if self.path == "/moved.png":
            self.send_header("location", "/image.png")
        self.end_headers()
        self.wfile.write(content * (1000 if self.path == "/large.png" else 1))

    def log_message(self, format: str, *arguments: object) -> None:
        """Print no requests."""


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    import base64

    Images.png = base64.b64decode(data_url(SAMPLE.image).partition(",")[2])  # type: ignore[attr-defined]
    with ThreadingHTTPServer(("127.0.0.1", 0), Images) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_images_of_permitted_hosts_are_fetched(host: str) -> None:
    reader = ImageReader((host,), max_bytes=10_000)
    with reader.memory.account() as account:
        assert (reader.read(f"http://{host}/image.png", "url", account) == SAMPLE.image).all()
        for name, status in {"moved": 400, "missing": 400, "large": 413}.items():
            with pytest.raises(ApiError) as refused:
                reader.read(f"http://{host}/{name}.png", "url", account)
            assert refused.value.status == status
    refused_urls = [f"http://{host}@example.org/a.png", f"http://{host}.example.org/a.png", f"ftp://{host}/a.png"]
    for url in (*refused_urls, "http://127.0.0.1/a.png", "//a.png", "a.png"):
        with pytest.raises(ApiError) as refused:
            reader.read(url, "url", [])
        assert refused.value.code == "image_url_refused"


def test_decoded_pixels_of_all_requests_are_bounded() -> None:
    reader = ImageReader()
    reader.memory.limit = SAMPLE.image.nbytes
    with reader.memory.account() as first:
        reader.read(data_url(SAMPLE.image), "url", first)
        with reader.memory.account() as second, pytest.raises(ApiError) as refused:
            reader.read(data_url(SAMPLE.image), "url", second)
        assert refused.value.status == 429
    assert reader.memory.used == 0


def serve(*more: str) -> list[str]:
    return ["serve", "--model", "tests.toy_port:toy", "--port", "0", *more]


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 is open to other machines: give --api-key-file FILE, or --no-auth"),
        (["--host", "::"], "is open to other machines"),
        (["--host", "203.0.113.7", "--no-auth"], "cannot listen on 203.0.113.7:0"),
        (["--api-key-file", "none.txt"], "cannot read --api-key-file none.txt"),
        (["--api-key-file", "none.txt", "--no-auth"], "--no-auth serves everyone"),
        (["--strategy", "magic"], "unknown strategy 'magic'"),
        (["--warm", "ngd", "magic"], "unknown strategy 'magic'"),
        (["--bank", "none"], "none"),
        (["--port", "70000"], "--port 70000"),
        (["--queue", "0"], "--queue 0"),
        (["--batch-size", "0"], "it must be at least 1"),
        ([], "no set of references is registered for toy"),
    ],
)
def test_options_that_cannot_be_served_are_one_line(
    more: list[str], cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(serve(*more)) == 2
    captured = capsys.readouterr()
    assert cause in captured.err and captured.err.count("\n") == 1 and captured.out == ""


@pytest.mark.parametrize("key", ["", "short", "two words and more", "schlüssel-lang"])
def test_a_key_must_be_one_word(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key").write_text(key, encoding="utf-8")
    assert main(serve("--api-key-file", str(tmp_path / "key"))) == 2
    captured = capsys.readouterr().err
    assert "must hold one key" in captured and (not key or key not in captured)


def test_replies_do_not_wait_for_the_acknowledgement_of_their_heads() -> None:
    with contextlib.closing(bind("127.0.0.1", 0)) as bound:
        assert bound.proto == socket.IPPROTO_TCP  # asyncio then sets TCP_NODELAY on accepted connections


def test_a_port_in_use_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert main([*serve(), "--port", str(other.getsockname()[1])]) == 2
    assert "choose another --port or --host" in capsys.readouterr().err


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    imported = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "uvicorn":
            raise ModuleNotFoundError(name)
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(serve()) == 2
    assert "r2t2 serve needs uvicorn; in the folder of r2t2-jax: pip install -e '.[serve]'" in capsys.readouterr().err


def test_paths_in_errors_are_shortened_to_names() -> None:
    cases = {
        "the template of /home/me/models/qwen fails: no turn": "the template of qwen fails: no turn",
        "~/a/b.json, '/tmp/x y/b.png': 1/2 and/or 3": "b.json, 'x y/b.png': 1/2 and/or 3",
        "a prompt of 40,000 tokens": "a prompt of 40,000 tokens",
    }
    assert {text: without_folders(text) for text in cases} == cases


def test_a_folder_has_another_name_for_clients() -> None:
    paths, bodies, kept = list[str](), list[bytes](), list[dict[bytes, bytes]]()

    async def files(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        paths.append(scope["path"])
        bodies.append(message["body"])
        kept.append(dict(scope["headers"]))
        kind = b"application/json" if scope["path"] != "/raw" else b"image/png"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": b'["/tmp/secret/a.png"]'})

    async def exchange() -> list[httpx.Response]:
        transport = httpx.ASGITransport(FolderAlias(files, "/tmp/secret", "/files"))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

            async def halves() -> AsyncIterator[bytes]:
                yield b'{"path": "/fil'
                yield b'es/a.png"}'

            sent = await client.post(
                "/file=/files/a.png", content=halves(), headers={"content-type": "application/json"}
            )
            return [sent, await client.get("/raw", headers={"accept-encoding": "br"})]

    sent, raw = asyncio.run(exchange())
    assert paths == ["/file=/tmp/secret/a.png", "/raw"] and bodies == [b'{"path": "/tmp/secret/a.png"}', b""]
    assert sent.json() == ["/files/a.png"] and raw.content == b'["/tmp/secret/a.png"]'
    assert all(b"accept-encoding" not in headers for headers in kept)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_what_runs_and_exits_with_0(number: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "r2t2_jax.cli.main", "serve", "--model", "pocket:narrow", "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [*command, "--strategy", "base"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    url = process.stdout.readline().split()[-1].removesuffix("/v1")
    with httpx.Client(base_url=url, timeout=600, trust_env=False, transport=httpx.HTTPTransport(retries=8)) as client:
        until(lambda: client.get("/ready").status_code == 200)
        content = body(model="pocket:narrow")
        replies = []
        thread = threading.Thread(
            target=lambda: replies.append(client.post("/v1/chat/completions", json=content).status_code)
        )
        thread.start()
        until(lambda: replies or b"r2t2_requests_in_flight 1.0" in httpx.get(f"{url}/metrics").content)
        process.send_signal(number)
        thread.join()
    _, errors = process.communicate(timeout=600)
    assert (replies, process.returncode) == ([200], 0), errors
    assert "Traceback" not in errors
