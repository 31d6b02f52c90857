"""The examples: each re-routes better than its router."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_model_in_plain_jax_numpy() -> None:
    losses = load("plain_jnp").mean_losses()
    assert losses["ngd"] < 0.01 * losses["router"]


@pytest.mark.slow
def test_a_classifier_with_gates_per_token() -> None:
    accuracies = load("nnx_token_gates").accuracies()
    assert accuracies["ngd"] > accuracies["router"] + 0.5


@pytest.mark.slow
def test_shared_experts_and_a_choice_of_experts() -> None:
    losses = load("shared_experts").mean_losses()
    assert losses["chosen experts"] < 0.01 * losses["router"]
    assert losses["all experts"] < 0.1 * losses["router"]
