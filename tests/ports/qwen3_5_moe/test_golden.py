"""Qwen3.5-MoE against transformers' recorded numbers: forward passes, imposed routing with gradients, generation."""

import pytest

from tests.goldens import find_goldens
from tests.ports.common.qwen_vl import golden_checks, routing_checks
from tests.ports.common.qwen_vl.golden_checks import Tolerances

GOLDENS = find_goldens("qwen3_5_moe_?.npz")
ROUTING = find_goldens("qwen3_5_moe_?_routing.npz")
TOLERANCES = Tolerances(hidden=1e-4, weights=3e-5, logits=2e-4, loss=6e-5, gradient=4e-4)


@pytest.mark.parametrize("path", GOLDENS)
def test_positions_of_tokens_and_patches(path):
    golden_checks.check_positions(path)


@pytest.mark.parametrize("path", GOLDENS)
def test_the_tower_gives_the_recorded_states(path):
    golden_checks.check_tower(path)


@pytest.mark.parametrize("path", GOLDENS)
def test_states_router_and_logits_are_the_recorded_ones(path):
    golden_checks.check_states(path, TOLERANCES)


@pytest.mark.slow
@pytest.mark.parametrize("path", GOLDENS)
def test_the_prompt_state_and_greedy_tokens_are_the_recorded_ones(path):
    golden_checks.check_generation(path, TOLERANCES)


LAYER_SETS = ["tail", *(pytest.param(name, marks=pytest.mark.slow) for name in ("all", "first", "long"))]


@pytest.mark.parametrize("path", ROUTING)
@pytest.mark.parametrize("layer_set", LAYER_SETS)
def test_imposed_weights_give_the_recorded_losses_and_gradients(path, layer_set):
    for number in ("all", "tail") if layer_set == "long" else (layer_set,):
        routing_checks.check_override(path, number, TOLERANCES, long=layer_set == "long")


@pytest.mark.slow
@pytest.mark.parametrize("path", ROUTING)
@pytest.mark.parametrize("mode", ["shift", "select"])
def test_shifted_logits_and_selected_experts_give_the_recorded_numbers(path, mode):
    routing_checks.check_shift_or_select(path, mode, TOLERANCES)


@pytest.mark.parametrize("path", ROUTING)
def test_generation_under_imposed_weights_gives_the_recorded_tokens(path):
    routing_checks.check_routed_generation(path, TOLERANCES)
