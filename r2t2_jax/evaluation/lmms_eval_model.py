"""The model `r2t2` for lmms-eval 0.7, registered in the entry-point group `lmms_eval.models`.

    python -m lmms_eval --model r2t2 --tasks mme --model_args model=models/mova,bank=banks/mova,strategy=ngd

Only lmms-eval imports this file. Prompts are used unchanged: the style of a question is `plain`. The text that is
embedded to find neighbors is the question of the task's document, as `r2t2 eval` embeds it, not the whole prompt; the
prompt if the document has no question.

Axis letters: B samples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL import Image

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import Sample
from r2t2_jax.datasets.images import decode_image, encoded_image, rgb_pixels
from r2t2_jax.datasets.prompts import question_of_document
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.batch import evaluate_batch
from r2t2_jax.evaluation.encode import EncodedQuestions, encode_questions
from r2t2_jax.evaluation.evaluator import Evaluator
from r2t2_jax.evaluation.setup import check_no_overlap, open_bank, open_port, with_decoding
from r2t2_jax.methods import find_preset, method_of, own_preset
from r2t2_jax.validation.strategies import check_strategies

BATCH = 16  # questions at a time


def manifest() -> ModelManifest:
    """The name of the model in lmms-eval, and its class."""
    return ModelManifest(model_id="r2t2", simple_class_path=f"{__name__}.{ReroutedModel.__name__}")


class ReroutedModel(lmms):
    """A port with one strategy, as a model of lmms-eval.

    Args:
        model, bank, strategy, preset, embedder: as `r2t2 eval` takes them.
        batch_size: questions at a time; `auto` for the default.
        beams: of the search for an answer, for a model that has one.
        max_new_tokens: longest answer; by default the model's.
        allow_leakage: `true` to accept questions that are also references.
        device, max_batch_size: ignored; JAX chooses the device, and a batch has `batch_size` questions.

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
        batch_size: int | str | None = BATCH,
        beams: int = 1,
        max_new_tokens: int | None = None,
        device: str | None = None,
        max_batch_size: int | str | None = None,
        allow_leakage: bool | str = False,
    ) -> None:
        super().__init__()
        self._batch_size = _batch_size(batch_size)
        port = open_port(model, embedder, preset or None)
        settings = find_preset(preset or own_preset(port.name, port.presets), port.presets)
        strategies = {strategy: method_of(strategy, settings)}
        check_strategies(strategies, (), ReferenceBank.open(bank) if bank else None, port, model)
        references = open_bank(port, Path(bank) if bank else None, {}, [], keep_wrong=True)
        self._allow_leakage, self._references = str(allow_leakage).lower() == "true", references
        port = with_decoding(port, int(beams))
        if max_new_tokens is not None:
            port = replace(port, max_new_tokens=int(max_new_tokens))
        self._evaluator = Evaluator.create(port, references, strategies, None)

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Answers after re-routing, in the order of the requests. Other settings of a request than `until` are ignored.

        Raises:
            R2T2Error: a request has no image or several, or its question is also a reference.
        """
        answers: list[str] = []
        for first in range(0, len(requests), self._batch_size):
            batch = requests[first : first + self._batch_size]
            pairs = [self._sample(*request.args) for request in batch]
            questions = [replace(sample, question=text) for sample, text in pairs]
            check_no_overlap(self._references, questions, self._allow_leakage)
            encoded = self._encode(pairs)
            prepared = self._evaluator.prepare_batch(encoded, np.arange(first, first + self._batch_size))
            (result,) = evaluate_batch(prepared, stop=len(batch), chunk_size=self._batch_size)
            predictions = zip(result.predictions, batch, strict=True)
            answers += [_cut(text, request.args[1]) for text, request in predictions]
        return answers

    def _encode(self, pairs: Sequence[tuple[Sample, str]]) -> EncodedQuestions:
        """The samples with the texts that are embedded, padded to a whole batch."""
        padded = [*pairs, *[pairs[-1]] * (self._batch_size - len(pairs))]
        samples, texts = [sample for sample, _ in padded], [text for _, text in padded]
        return encode_questions(self._evaluator.port, samples, self._batch_size, texts)

    def _sample(
        self, context: str, settings: Any, visuals: Callable[[Any], list[Any]], doc_id: Any, task: str, split: str
    ) -> tuple[Sample, str]:
        """The sample of a request, and the text to embed."""
        document = self.task_dict[task][split][doc_id]
        images = [image for image in visuals(document) or () if image is not None]
        if len(images) != 1:
            raise R2T2Error(f"{task} {doc_id} has {len(images)} images; r2t2 takes one")
        sample = Sample(f"{task}/{doc_id}", _pixels(images[0], f"{task} {doc_id}"), context, ())
        return sample, question_of_document(task, document) or context

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


def _batch_size(size: int | str | None) -> int:
    text = str(BATCH if size in (None, "auto") else size)
    if not text.isdecimal() or int(text) < 1:
        raise R2T2Error(f"batch_size={size} is not a number of questions; give a positive number or auto")
    return int(text)


def _pixels(image: Any, where: str) -> UInt8[np.ndarray, "height width 3"]:
    """RGB pixels of what a task calls a visual, a PIL image or a path, decoded as the benchmarks' authors do."""
    if isinstance(image, str | Path):
        return decode_image(encoded_image(Path(image), where), upright=False)
    if not isinstance(image, Image.Image):
        raise R2T2Error(f"{where} has a visual of type {type(image).__name__}; r2t2 takes an image")
    return rgb_pixels(image, upright=False)


def _cut(text: str, settings: Any) -> str:
    """The text before the first of the task's stop strings."""
    until = (settings or {}).get("until") or ()
    for stop in (until,) if isinstance(until, str) else until:
        if stop:
            text = text.partition(stop)[0]
    return text
