"""`r2t2 serve`: an OpenAI-compatible server and a page."""

from __future__ import annotations

from dataclasses import dataclass

from r2t2_jax.serve import Settings


@dataclass(frozen=True)
class Serve(Settings):
    """Serve a model with re-routing through OpenAI's chat API, and a page to try it on.

    It listens on this machine only unless another host is given. Needs the extra serve.

    Example: r2t2 serve --model pocket:narrow --strategy ngd --warm base atlas
    """

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        from r2t2_jax.errors import R2T2Error, missing_extra

        if self.api_key_file is not None and not self.auth:
            raise R2T2Error(
                "--no-auth serves everyone, so the key of --api-key-file is not used: leave one of them out"
            )
        for package in ("fastapi", "uvicorn", "httptools", "prometheus_client", "httpx"):
            try:
                __import__(package)
            except ImportError as error:
                raise missing_extra("r2t2 serve", package, "serve") from error
        from r2t2_jax.serve.server import run_server

        run_server(self)
