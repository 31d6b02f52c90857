"""Checks pages in headless Chromium: console messages, and whether they fit the window.

A page is shown in a frame of the requested width, since Chromium opens no window narrower than 500 pixels.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)
BUDGETS = (20_000, 60_000, 180_000)  # virtual milliseconds; a busy machine decodes images late
_PROBE = """<!DOCTYPE html><body><iframe src="/{name}" style="width:{width}px;height:900px;border:0"></iframe><script>
addEventListener("load", async () => {{
  const page = document.querySelector("iframe").contentDocument, images = [...page.images];
  await Promise.allSettled(images.map(image => image.decode()));
  const waiting = () => page.querySelector(".cases:not(:has(.open))");
  for (let i = 0; i < 50 && waiting(); i++) await new Promise(done => setTimeout(done, 100));
  document.body.innerHTML = "<pre>" + JSON.stringify({{
    width: page.documentElement.scrollWidth,
    broken: images.filter(image => !image.naturalWidth).length,
    wide: images.filter(image => image.getBoundingClientRect().right > {width} + 1).length,
    views: page.querySelectorAll(".view:not([hidden])").length,
    cases: page.querySelectorAll(".cases tbody .open").length,
  }}) + "</pre>";
}});</script>"""


@dataclass(frozen=True)
class PageCheck:
    """The width of the page, numbers of broken and too wide images, of strategies and cases shown; console lines."""

    width: int
    broken: int
    wide: int
    views: int
    cases: int
    console: list[str]


def check_page(page: Path, width: int) -> PageCheck:
    """Open a page in a frame of `width` pixels."""
    assert CHROMIUM is not None
    probe = page.parent / f"probe-{width}.html"
    probe.write_text(_PROBE.format(name=page.name, width=width), encoding="utf-8")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(page.parent))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        flags = [*FLAGS, f"--user-data-dir={page.parent / 'profile'}", "--window-size=1400,1000", "--dump-dom"]
        address = f"http://127.0.0.1:{server.server_port}/{probe.name}"
        for budget in BUDGETS:
            command = [CHROMIUM, *flags, f"--virtual-time-budget={budget}", address]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            match = re.search(r"<pre>(\{.*?\})</pre>", done.stdout, re.DOTALL)  # the probe's source has no such text
            if match:
                break
        server.shutdown()
    assert match, f"Chromium gave no answer: {done.stdout[-500:]} {done.stderr[-500:]}"
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line and "favicon.ico" not in line]
    return PageCheck(**json.loads(unescape(match[1])), console=console)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Print no requests."""
