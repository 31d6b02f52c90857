"""Builds a bank of the toy port slowly, for the tests of `evaluation/build_bank.py` that kill it."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from r2t2_jax.bank.manifest import Source
from r2t2_jax.evaluation.build_bank import BankConfig, build_bank
from r2t2_jax.evaluation.question_sets import QuestionSet
from tests.toy_port import ToyEmbedder, make_samples, toy

SETTINGS = {"model": "toy"}
CONFIG = BankConfig(limit=25, features=True, batch=4)


class SlowEmbedder(ToyEmbedder):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def embed(self, texts: list[str]) -> np.ndarray:
        time.sleep(self.seconds)
        return super().embed(texts)


def sets() -> dict[str, QuestionSet]:
    """Two sets; the limit skips some questions of the first."""
    return {
        "many": QuestionSet(Source("many"), make_samples(60, seed=1, hinted=0.5), "exact_match"),
        "few": QuestionSet(Source("few"), make_samples(18, seed=2, hinted=0.5), "exact_match"),
    }


def build(folder: str, seconds: float = 0.0, config: BankConfig = CONFIG) -> dict:
    """Build the bank of both sets."""
    return build_bank(Path(folder), replace(toy(), embedder=SlowEmbedder(seconds)), sets(), config, SETTINGS)
