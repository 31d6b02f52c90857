"""A model of ours for lmms-eval 0.7, which finds it in the entry-point group `lmms_eval.models`.

    python -m lmms_eval --model r2t2 --tasks mme --model_args model=models/mova,bank=banks/mova,strategy=ngd

Only lmms-eval imports this file. Its prompts come as they are: a question's style is `plain`.

Axis letters: B samples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest

from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.evaluator import set_up
from r2t2_jax.evaluation.setup import open_bank, open_port
from r2t2_jax.method.presets import find_preset, own_preset
from r2t2_jax.methods import method_of
from r2t2_jax.metrics import get_metric
from r2t2_jax.runtime.batching import run_batch


def manifest() -> ModelManifest:
    """Under which name lmms-eval knows the model."""
    return ModelManifest(model_id="r2t2", simple_class_path=f"{__name__}.{Rerouted.__name__}")


class Rerouted(lmms):
    """A port with one strategy.

    Args:
        model, bank, strategy, preset, embedder: as `r2t2 eval` takes them.
        batch_size: questions at a time.
        device: no choice of ours; JAX takes what there is.

    Raises:
        R2T2Error: as `r2t2 eval`.
    """

    is_simple = True

    def __init__(
        self,
        model: str,
        bank: str = "",
        strategy: str = "ngd",
        preset: str = "",
        embedder: str = "",
        batch_size: int | str = 16,
        device: str | None = None,
    ) -> None:
        super().__init__()
        port = open_port(model, embedder)
        settings = find_preset(preset or own_preset(port.name, port.presets), port.presets)
        metric = get_metric("exact_match")  # tells which references count where no bank is named; lmms-eval scores
        opened = open_bank(port, Path(bank) if bank else None, metric, [], keep_wrong=True)
        self._strategy, self._size = strategy, int(batch_size)
        self._setup = set_up(port, opened, {strategy: method_of(strategy, settings)}, metric)

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Answers after re-routing, in the order of the requests; greedy, whatever the requests' settings.

        Raises:
            R2T2Error: a request has no image or several.
        """
        answers: list[str] = []
        for first in range(0, len(requests), self._size):
            some = requests[first : first + self._size]
            samples = [self._sample(*request.args) for request in some]
            filled = [*samples, *[samples[-1]] * (self._size - len(samples))]
            questions = encode_questions(self._setup.port, filled, self._size)
            evaluation = self._setup.asked(questions, np.arange(first, first + self._size))
            found = run_batch(partial(evaluation.answer, self._strategy), 0, len(some), self._size)
            texts = self._setup.port.processor.decode(found["tokens"])
            answers += [_cut(text, request.args[1]) for text, request in zip(texts, some, strict=True)]
        return answers

    def _sample(
        self, context: str, settings: Any, visuals: Callable[[Any], list[Any]], doc_id: Any, task: str, split: str
    ) -> Sample:
        images = visuals(self.task_dict[task][split][doc_id])
        if len(images) != 1:
            raise R2T2Error(f"{task} {doc_id} has {len(images)} images; a model of ours takes one")
        return Sample(f"{task}/{doc_id}", np.asarray(images[0].convert("RGB")), context, ())

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Not offered.

        Raises:
            R2T2Error: always.
        """
        raise R2T2Error("r2t2 answers in words for lmms-eval: choose tasks of the type generate_until")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Not offered.

        Raises:
            R2T2Error: always.
        """
        raise R2T2Error("r2t2 answers one question about one image: choose tasks of the type generate_until")


def _cut(text: str, settings: Any) -> str:
    """Up to the first of the texts at which a task wants to stop."""
    until = settings.get("until", ())
    for stop in (until,) if isinstance(until, str) else until:
        if stop:
            text = text.partition(stop)[0]
    return text
