"""Writes a self-contained HTML page that shows questions with their images."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from r2t2_jax.contract import Sample
from r2t2_jax.datasets.prompts import lettered

WIDTH = 320  # of an image on the page, in pixels
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1a1a1a; --soft: #5a5a5a; --line: #d5d5d5; --field: #f4f4f4 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181a; --ink: #e8e6e3; --soft: #a8a6a2; --line: #3c4043; --field: #26292b }
}
body { font: 15px/1.45 system-ui, sans-serif; margin: clamp(1rem, 3vw, 2rem) }
body { color: var(--ink); background: var(--paper) }
h1, p, pre, .answer, small { overflow-wrap: anywhere }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 1.2rem }
figure { margin: 0; padding: 10px; border: 1px solid var(--line); border-radius: 6px; min-width: 0 }
img, .none { width: 100%; background: var(--field) } .none { padding: 3rem 0; text-align: center; color: var(--soft) }
pre { white-space: pre-wrap; font: inherit; margin: .5rem 0 } .answer { font-weight: 600 } small { color: var(--soft) }
"""


def contact_sheet(title: str, notes: Sequence[str], samples: Sequence[Sample], images: bool = True) -> str:
    """The HTML text of the page.

    Args:
        title: the heading.
        notes: lines below the heading, such as license and number of questions.
        samples: the questions.
        images: show the images; otherwise a gray field replaces each.
    """
    paragraphs = "".join(f"<p>{escape(note)}</p>\n" for note in notes)
    figures = "\n".join(_figure(sample, images) for sample in samples)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>{escape(title)}</h1>\n{paragraphs}</header>\n"
        f"<main>\n{figures}\n</main>\n</body>\n</html>\n"
    )


def _figure(sample: Sample, images: bool) -> str:
    if images and sample.image is not None:
        image = f'<img alt="image of question {escape(sample.id)}" src="data:image/jpeg;base64,{_thumbnail(sample)}">'
    else:
        image = '<div class="none">no image available</div>'
    question = escape("\n".join([sample.question, *lettered(sample.options)]))
    counts = {answer: sample.answers.count(answer) for answer in sample.answers}
    answers = "; ".join(f"{answer} (x{count})" if count > 1 else answer for answer, count in counts.items())
    facts = " · ".join(filter(None, (sample.id, sample.split, sample.category, f"style {sample.style}")))
    return (
        f"<figure>\n{image}\n<pre>{question}</pre>\n"
        f'<div class="answer">{escape(answers)}</div>\n<small>{escape(facts)}</small>\n</figure>'
    )


def _thumbnail(sample: Sample) -> str:
    image = Image.fromarray(sample.pixels())
    image.thumbnail((2 * WIDTH, 4 * WIDTH))  # twice the width on the page, for high-resolution screens
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()
