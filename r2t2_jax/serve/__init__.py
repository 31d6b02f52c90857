"""An OpenAI-compatible server for re-routed models, and a page to try re-routing on (docs/serve.md).

`server.run_server` opens model and bank and listens; `app.create_app` has the routes; `batching.Batcher` groups the
requests that wait; `engine.Engine` answers a group with the one evaluator (`evaluation.batch`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """The options of `r2t2 serve`."""

    model: str
    """The model: a port such as pocket:narrow, or module:attribute of your own."""
    bank: Path | None = None
    """Bank directory. Default: the references registered with the model are collected once and kept in the cache."""
    strategy: str = "ngd"
    """Strategy of requests that name none; base for the router's own weights."""
    preset: str | None = None
    """Settings of the strategy: a name, or a file from r2t2 tune. Default: the model's own, else the paper's."""
    embedder: str = ""
    """Embedder of the questions; must be the bank's (minilm:DIR, hashed_words). Default: the model's own."""
    host: str = "127.0.0.1"
    """Address to listen on; any other than this machine's own needs --api-key-file or --no-auth."""
    port: int = 8000
    """TCP port; 0 for a free one."""
    api_key_file: Path | None = None
    """File with the key that clients must send."""
    auth: bool = True
    """Require the key; --no-auth serves everyone who reaches the host."""
    warm: tuple[str, ...] = ()
    """Further strategies whose programs are compiled before the server is ready."""
    queue: int = 64
    """Requests that are read, wait or run at a time; further ones get status 429."""
    batch_size: int = 4
    """Questions that are answered together at most."""
    vmap_size: int = 1
    """Questions that the device computes together; above 1 uses an accelerator better and changes rounding."""
    beams: int = 1
    """Beams of the search for an answer, for models that have one; 1 is greedy, and needed for sampling."""
    max_new_tokens: int | None = None
    """Longest answer in tokens. Default: the model's."""
    model_name: str = ""
    """Name of the model for clients. Default: the port's."""
    allow_image_host: tuple[str, ...] = ()
    """Hosts, HOST or HOST:PORT, from which image addresses are fetched. Default: only data URLs are read."""
    page: bool = True
    """Serve the page at /, if Gradio is installed."""
