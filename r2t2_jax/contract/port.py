"""A port: a model with its weights, its processor and its embedder, ready to use.

`Processor` and `Embedder` work on the host, on batches. Axis letters: B samples, A answer tokens, M embedding size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int

from r2t2_jax.contract.model import Answer, Inputs, Params, RoutedModel
from r2t2_jax.contract.samples import Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.routing import RoutingSpec


class Processor(Protocol):
    """Host side of a port, on batches. Results do not depend on the length bucket.

    A processor that cuts long questions also has `fits(question) -> bool`.
    """

    def prepare(self, params: Params, samples: Sequence[Sample]) -> Inputs:
        """Pixels, token ids and masks, every leaf with a leading axis B."""
        ...

    def answer_ids(self, answers: Sequence[str]) -> Answer:
        """Answer tokens and masks, every leaf with a leading axis B."""
        ...

    def decode(self, tokens: Int[np.ndarray, "B A"]) -> list[str]:
        """Generated tokens to text, cut at the end-of-turn token."""
        ...


class Embedder(Protocol):
    """Maps questions to unit vectors; `fingerprint` changes whenever the vectors do."""

    @property
    def fingerprint(self) -> str: ...

    def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "B M"]: ...


GRAY = 127  # of 255: every pixel of the image without content with which Test-Time Warmup compares


CAPTION_PROMPTS = (  # for models that describe photographs; Test-Time Warmup asks for ten captions of an image
    "Describe this image.",
    "What does this image show?",
    "Describe the objects in this image and where they are.",
    "Describe the people, animals or things in the foreground.",
    "Describe the background of this image.",
    "Which colors, shapes and materials does this image show?",
    "What is happening in this image?",
    "Describe any text, numbers or symbols in this image.",
    "How are the objects in this image related to each other?",
    "Summarize this image in one sentence.",
)


@dataclass(frozen=True)
class CaptionModel:
    """Prompts and trained parameters of the rival `warmup`.

    `prompts` are questions about any image, `adapted` the paths in `params` of connector and language model.
    """

    prompts: tuple[str, ...]
    adapted: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Port:
    """A model ready to use, as `r2t2_jax.load("pocket:narrow")` returns it.

    `gate` is the path in `params` of the router's parameters, which `gate_finetuned` trains. `atlas` is the folder of
    the loss atlas that is shipped with the port's references, if any. Answers are decoded greedily, or with beam search
    if `beams` is above 1, up to `max_new_tokens`. `token_limits` are the numbers of published evaluations that differ
    from it, by dataset name.
    """

    name: str
    model: RoutedModel
    params: Params
    processor: Processor
    embedder: Embedder
    fingerprint: str
    max_new_tokens: int
    presets: Mapping[str, Any] = field(default_factory=dict)
    gate: str = ""
    atlas: Path | None = None
    captioning: CaptionModel | None = None
    beams: int = 1
    token_limits: Mapping[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        """One line without the weights."""
        layers, experts = self.model.spec.shape
        return f"Port({self.name!r}, {layers} x {experts} routing weights, fingerprint={self.fingerprint!r})"


METHODS = {  # of the parts of a port; `as_answer` and others are optional for some strategies, these are not
    "model": ("encode", "route", "answer_loss", "generate", "answer_logprobs", "as_answer"),
    "processor": ("prepare", "answer_ids", "decode"),
    "embedder": ("embed",),
}


def check_methods(port: Port) -> None:
    """Check that the parts of a port have the methods of the contract.

    Raises:
        R2T2Error: a method is missing (all missing ones are named), or the spec, a name or a fingerprint.
    """
    for part, names in METHODS.items():
        owner = getattr(port, part)
        missing = [name for name in names if not callable(getattr(owner, name, None))]
        if missing:
            raise R2T2Error(
                f"the {part} of port {port.name!r} ({type(owner).__name__}) has no method "
                f"{', '.join(missing)}; r2t2_jax.contract describes each"
            )
    if not isinstance(getattr(port.model, "spec", None), RoutingSpec):
        raise R2T2Error(f"the model of port {port.name!r} has no spec, a r2t2_jax.RoutingSpec")
    named = {"name": port.name, "fingerprint": port.fingerprint}
    for what, text in (named | {"embedder.fingerprint": getattr(port.embedder, "fingerprint", None)}).items():
        if not isinstance(text, str) or not text:
            raise R2T2Error(f"{what} of port {port.name!r} is {text!r}; it is a text that changes when results do")
    if not isinstance(port.max_new_tokens, int) or port.max_new_tokens < 1:
        raise R2T2Error(
            f"max_new_tokens of port {port.name!r} is {port.max_new_tokens!r}; it is a whole number of at least 1"
        )
    try:
        hash(port.model)
    except TypeError as error:
        raise R2T2Error(
            f"the model of port {port.name!r} ({type(port.model).__name__}) is not hashable ({error}): make it a "
            "frozen dataclass without arrays; arrays belong in params"
        ) from error
