"""The server that the tests share."""

from collections.abc import Iterator
from typing import Any

import pytest

for package in ("fastapi", "uvicorn", "httpx", "prometheus_client", "openai"):
    pytest.importorskip(package)


@pytest.fixture(scope="session")
def live() -> Iterator[Any]:
    from tests.serve.live import engine, live_server

    with live_server(engine()) as server:
        yield server
