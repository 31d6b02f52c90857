"""`r2t2 serve`: an OpenAI-compatible server and a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MIN_KEY = 8  # characters


@dataclass(frozen=True)
class Serve:
    """Serve a model with re-routing through OpenAI's chat API, and a page to try it on.

    It listens on this machine only unless another host is given. Needs the extra serve.

    Example: r2t2 serve --model pocket:narrow --strategy ngd --warm base atlas
    """

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

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        from r2t2_jax.errors import R2T2Error, missing_extra

        if self.api_key_file is not None and not self.auth:
            raise R2T2Error(
                "--no-auth serves everyone, so the key of --api-key-file is not used: leave one of them out"
            )
        for package in ("fastapi", "uvicorn", "prometheus_client", "httpx"):
            try:
                __import__(package)
            except ImportError as error:
                raise missing_extra("r2t2 serve", package, "serve") from error
        from r2t2_jax.serve.server import Settings, run_server

        run_server(
            Settings(
                model=self.model,
                bank=self.bank,
                strategy=self.strategy,
                preset=self.preset,
                embedder=self.embedder,
                name=self.model_name,
                host=self.host,
                port=self.port,
                key="" if self.api_key_file is None else read_key(self.api_key_file),
                auth=self.auth,
                warm=self.warm,
                queue=self.queue,
                batch_size=self.batch_size,
                vmap_size=self.vmap_size,
                beams=self.beams,
                max_new_tokens=self.max_new_tokens,
                image_hosts=self.allow_image_host,
                page=self.page,
            )
        )


def read_key(path: Path) -> str:
    """The API key in a file.

    Raises:
        R2T2Error: the file cannot be read, or holds no key of one line.
    """
    from r2t2_jax.errors import R2T2Error
    from r2t2_jax.runtime.typed_files import read_text

    try:
        key = read_text(path).strip()
    except R2T2Error as error:
        raise R2T2Error(f"cannot read --api-key-file {path}: {error}") from error
    if not key.isascii() or not key.isprintable() or " " in key or len(key) < MIN_KEY:
        raise R2T2Error(f"--api-key-file {path} must hold one key of at least {MIN_KEY} letters, digits and signs")
    return key
