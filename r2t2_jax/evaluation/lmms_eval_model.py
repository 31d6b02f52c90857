"""The model `r2t2` for lmms-eval 0.7, registered in the entry-point group `lmms_eval.models`.

    python -m lmms_eval --model r2t2 --tasks mme --model_args model=models/mova,bank=banks/mova,strategy=ngd

Only lmms-eval imports this file. Prompts are used unchanged: the style of a question is `plain`.

Axis letters: B samples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest

from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.batch import evaluate_batch
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.evaluator import Evaluator
from r2t2_jax.evaluation.setup import check_no_overlap, open_bank, open_port
from r2t2_jax.methods import find_preset, method_of, own_preset
from r2t2_jax.metrics import get_metric


def manifest() -> ModelManifest:
    """The name of the model in lmms-eval, and its class."""
    return ModelManifest(model_id="r2t2", simple_class_path=f"{__name__}.{ReroutedModel.__name__}")


class ReroutedModel(lmms):
    """A port with one strategy, as a model of lmms-eval.

    Args:
        model, bank, strategy, preset, embedder: as `r2t2 eval` takes them.
        batch_size: questions at a time.
        allow_leakage: `true` to accept questions that are also references.
        device: ignored; JAX chooses the device.

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
        allow_leakage: bool | str = False,
    ) -> None:
        super().__init__()
        port = open_port(model, embedder)
        settings = find_preset(preset or own_preset(port.name, port.presets), port.presets)
        metric = get_metric("exact_match")  # of the references, if they are collected; lmms-eval scores the answers
        references = open_bank(port, Path(bank) if bank else None, metric, [], keep_wrong=True)
        self._allow_leakage, self._references = str(allow_leakage).lower() == "true", references
        self._batch_size = int(batch_size)
        self._evaluator = Evaluator.create(port, references, {strategy: method_of(strategy, settings)}, None)

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Answers after re-routing, in the order of the requests. Decoding is greedy; other settings are ignored.

        Raises:
            R2T2Error: a request has no image or several, or its question is also a reference.
        """
        answers: list[str] = []
        for first in range(0, len(requests), self._batch_size):
            batch = requests[first : first + self._batch_size]
            samples = [self._sample(*request.args) for request in batch]
            check_no_overlap(self._references, samples, self._allow_leakage)
            padding = [samples[-1]] * (self._batch_size - len(samples))
            questions = encode_questions(self._evaluator.port, [*samples, *padding], self._batch_size)
            prepared = self._evaluator.prepare_batch(questions, np.arange(first, first + self._batch_size))
            (result,) = evaluate_batch(prepared, stop=len(batch), chunk_size=self._batch_size)
            pairs = zip(result.predictions, batch, strict=True)
            answers += [_cut(text, request.args[1]) for text, request in pairs]
        return answers

    def _sample(
        self, context: str, settings: Any, visuals: Callable[[Any], list[Any]], doc_id: Any, task: str, split: str
    ) -> Sample:
        images = visuals(self.task_dict[task][split][doc_id])
        if len(images) != 1:
            raise R2T2Error(f"{task} {doc_id} has {len(images)} images; r2t2 takes one")
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
    """The text before the first of the task's stop strings."""
    until = settings.get("until", ())
    for stop in (until,) if isinstance(until, str) else until:
        if stop:
            text = text.partition(stop)[0]
    return text
