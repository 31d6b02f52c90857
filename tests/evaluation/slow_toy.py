"""The toy port with an embedder that takes its time, so that a process can be killed in the middle."""

import os
import time
from dataclasses import replace

import numpy as np

from r2t2_jax.contract import Port
from tests.toy_port import ToyEmbedder, toy


class SlowEmbedder(ToyEmbedder):
    def embed(self, texts: list[str]) -> np.ndarray:
        time.sleep(float(os.environ.get("SLOW_TOY", "0")))
        return super().embed(texts)


def slow() -> Port:
    return replace(toy(), embedder=SlowEmbedder())
