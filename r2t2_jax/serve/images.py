"""Images of requests: data URLs within limits, and addresses of hosts that the operator permits."""

from __future__ import annotations

import base64
import binascii
import re
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx
import numpy as np
from jaxtyping import UInt8

from r2t2_jax.datasets.images import decode_opened, open_image
from r2t2_jax.errors import R2T2Error
from r2t2_jax.serve.schemas import ApiError, busy

DATA_URL = re.compile(r"data:(?:image/[\w.+-]+)?(?:;[\w.+-]{1,64}=[\w.+-]{0,256}){0,8};base64,", re.IGNORECASE)
MAX_ENCODED = 16 << 20  # bytes of an image
MAX_PIXELS = 1 << 24
MAX_DECODED = 1 << 30  # bytes of pixels of all requests together
FETCH_SECONDS = 10.0


@dataclass
class PixelMemory:
    """The decoded pixels of all requests that are being answered."""

    limit: int = MAX_DECODED
    used: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def account(self) -> Iterator[list[int]]:
        """The bytes that a request reserves; they are released with it."""
        reserved: list[int] = []
        try:
            yield reserved
        finally:
            with self._lock:
                self.used -= sum(reserved)

    def reserve(self, account: list[int], size: int) -> None:
        """Reserve bytes for a request.

        Raises:
            ApiError: 429, other requests hold too many.
        """
        with self._lock:
            if self.used + size > self.limit:
                raise busy(1)
            self.used += size
            account.append(size)


@dataclass(frozen=True)
class ImageReader:
    """Reads the images of requests.

    Args:
        hosts: of which images are fetched, as in an address: `host` or `host:port`.
        memory: of the pixels of all requests.
        max_bytes: of an encoded image.
        max_pixels: of an image.
    """

    hosts: Collection[str] = ()
    memory: PixelMemory = field(default_factory=PixelMemory)
    max_bytes: int = MAX_ENCODED
    max_pixels: int = MAX_PIXELS

    def read(self, url: str, where: str, account: list[int]) -> UInt8[np.ndarray, "height width 3"]:
        """The pixels of an image.

        Args:
            url: a data URL, or the address of an image on one of the permitted hosts.
            where: the field of the request, for errors.
            account: of the request, from `PixelMemory.account`.

        Raises:
            ApiError: 400 for an address that is refused or no image, 413 for one that is too large, 429 if other
                requests hold too many pixels.
        """
        encoded = self._decoded(url, where) if url[:5].lower() == "data:" else self._fetched(url, where)
        return self.decode(encoded, where, account)

    def decode(self, encoded: bytes, where: str, account: list[int]) -> UInt8[np.ndarray, "height width 3"]:
        """The pixels of an encoded image; arguments and errors as of `read`."""
        if len(encoded) > self.max_bytes:
            raise self._too_large(where, f"{len(encoded):,} bytes")
        try:
            with open_image(encoded) as image:
                width, height = image.size
                if width * height > self.max_pixels:
                    message = f"the image has {width} x {height} pixels; at most {self.max_pixels:,} are read"
                    raise ApiError(413, message, where, "image_too_large")
                self.memory.reserve(account, 3 * width * height)
                return decode_opened(image, on_white=True)
        except R2T2Error as error:
            raise ApiError(400, f"the image cannot be read: {error}", where, "invalid_image") from None

    def _decoded(self, url: str, where: str) -> bytes:
        match = DATA_URL.match(url)
        if match is None:
            message = "a data URL of an image begins with data:image/png;base64, (or jpeg, webp, gif, bmp, tiff)"
            raise ApiError(400, message, where, "invalid_image_url")
        if len(url) * 3 // 4 > self.max_bytes + 1024:
            raise self._too_large(where, f"about {len(url) * 3 // 4:,} bytes")
        try:
            return base64.b64decode(url[match.end() :].encode("ascii"), validate=True)
        except (binascii.Error, UnicodeEncodeError):
            message = "the data URL is not valid base64 (of the standard alphabet, without spaces)"
            raise ApiError(400, message, where, "invalid_image_url") from None

    def _fetched(self, url: str, where: str) -> bytes:
        try:
            parts = urlsplit(url)
            host, scheme = parts.netloc, parts.scheme
        except ValueError:
            host = scheme = ""
        if scheme not in ("http", "https") or host not in self.hosts:
            message = (
                "images are read from data URLs only; the operator of this server may permit hosts (--allow-image-host)"
            )
            raise ApiError(400, message, where, "image_url_refused")
        content = bytearray()
        try:
            with (
                httpx.Client(follow_redirects=False, timeout=FETCH_SECONDS, trust_env=False) as client,
                client.stream("GET", url) as reply,
            ):
                if reply.status_code != 200:
                    message = f"the host of the image answered {reply.status_code}"
                    raise ApiError(400, message, where, "image_url_failed")
                for chunk in reply.iter_bytes(1 << 16):
                    content += chunk
                    if len(content) > self.max_bytes:
                        raise self._too_large(where, f"more than {self.max_bytes:,} bytes")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            message = f"the image cannot be fetched ({type(error).__name__})"
            raise ApiError(400, message, where, "image_url_failed") from None
        return bytes(content)

    def _too_large(self, where: str, size: str) -> ApiError:
        message = f"the image has {size}; at most {self.max_bytes:,} are read"
        return ApiError(413, message, where, "image_too_large")
