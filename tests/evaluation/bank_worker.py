"""Builds a bank of the toy port, slowly enough to be killed: for the tests of `evaluation/building.py`."""

import time
from pathlib import Path

import numpy as np

from r2t2_jax.bank.manifest import Source
from r2t2_jax.evaluation.build_bank import BankConfig, build_bank
from r2t2_jax.evaluation.question_sets import QuestionSet
from tests.toy_port import ToyEmbedder, make_samples, toy

SETTINGS = {"model": "toy"}
WANTED = BankConfig(limit=25, features=True, batch=4)


class SlowEmbedder(ToyEmbedder):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def embed(self, texts: list[str]) -> np.ndarray:
        time.sleep(self.seconds)
        return super().embed(texts)


def sets() -> dict[str, QuestionSet]:
    """Two sets: of the first the limit leaves some questions unasked."""
    return {
        "many": QuestionSet(Source("many"), make_samples(60, seed=1, told=0.5), "exact_match"),
        "few": QuestionSet(Source("few"), make_samples(18, seed=2, told=0.5), "exact_match"),
    }


def build(folder: str, seconds: float = 0.0, wanted: BankConfig = WANTED) -> dict:
    """The bank of both sets."""
    return build_bank(Path(folder), toy(), SlowEmbedder(seconds), sets(), wanted, SETTINGS)
