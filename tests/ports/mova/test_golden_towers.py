"""Every tower against the original code, block by block."""

import numpy as np
import pytest

from ports.mova.layers import nearest
from tests.goldens import find_goldens
from tests.ports.mova import recorded
from tests.ports.mova.recorded import FEATURES, Recorded, pixels, run, states


def close(ours, theirs):
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=FEATURES)


@pytest.mark.parametrize("path", find_goldens("golden_expert_clip*.npz"))
def test_clip(path):
    golden = Recorded(path)
    layers = golden.config["layers"]

    def encode(tower, image):
        hidden_states = states([tower.layers], tower.embed(image))
        return hidden_states, tower(image, layers - 1), tower(image)

    hidden_states, second_last, last = run(recorded.clip(golden), encode, pixels(golden["in/pixel_values"]))
    for number, state in enumerate(hidden_states):
        close(state, golden[f"out/hidden_states_{number}"])
    close(second_last, golden["out/features_select_layer_-2"])
    close(last, golden["out/features_select_layer_-1"])


@pytest.mark.parametrize("path", find_goldens("golden_expert_dinov2*.npz"))
def test_dinov2(path):
    golden = Recorded(path)

    def encode(tower, image):
        return states([tower.layers], tower.embed(image)), tower(image)

    hidden_states, last = run(recorded.dinov2(golden), encode, pixels(golden["in/pixel_values"]))
    for number, state in enumerate(hidden_states):
        close(state, golden[f"out/hidden_states_{number}"])
    close(last, golden["out/features_select_layer_-1"])
    close(hidden_states[-2][:, 1:], golden["out/features_select_layer_-2"])


@pytest.mark.parametrize(
    "path", [*find_goldens("golden_expert_sam*.npz"), *find_goldens("golden_expert_vary*.npz")]
)  # fmt: skip
def test_sam_and_vary(path):
    golden = Recorded(path)
    vary = golden.config["vary"]

    def encode(tower, image):
        encoder = tower.encoder if vary else tower
        return states(list(encoder.runs), encoder.embed(image))[1:], encoder.feature_map(image), tower(image)

    tower = recorded.vary(golden) if vary else recorded.sam(golden)
    hidden_states, neck, features = run(tower, encode, pixels(golden["in/pixel_values"]))
    for number, state in enumerate(hidden_states):
        close(state, golden[f"out/block_{number}_nhwc"])
    close(neck.transpose(0, 3, 1, 2), golden["out/neck_nchw"])
    close(features, golden["out/features"])


@pytest.mark.parametrize("path", find_goldens("golden_expert_codetr*.npz"))
def test_codetr(path):
    golden = Recorded(path)
    blocks = "out/block_0_nhwc" in golden.arrays

    def encode(tower, image):
        image = nearest(image, golden.config["inner"])
        inside = (states(list(tower.runs), tower.embed(image))[1:], tower.feature_map(image)) if blocks else None
        return inside, tower(image)

    inside, features = run(recorded.codetr(golden), encode, pixels(golden["in/pixel_values"]))
    if blocks:
        for number, state in enumerate(inside[0]):
            close(state, golden[f"out/block_{number}_nhwc"])
        close(inside[1].transpose(0, 3, 1, 2), golden["out/neck_nchw"])
    close(features, golden["out/features"])


@pytest.mark.parametrize("path", find_goldens("golden_expert_pix2struct*.npz"))
def test_pix2struct(path):
    golden = Recorded(path)

    def encode(tower, patches):
        mask = (patches.sum(axis=-1) != 0)[None]
        return states([tower.layers], tower.embed(patches), mask), tower(patches)

    tower = recorded.pix2struct(golden)
    hidden_states, last = run(tower, encode, golden["in/flattened_patches"])
    for number, state in enumerate(hidden_states):
        close(state, golden[f"out/hidden_states_{number}"])
    close(last, golden["out/last_hidden_state"])
    padded = run(tower, lambda tower, patches: tower(patches), golden["padded/in/flattened_patches"])
    close(padded, golden["padded/out/last_hidden_state"])


@pytest.mark.parametrize("path", find_goldens("golden_expert_biomedclip*.npz"))
def test_biomedclip(path):
    golden = Recorded(path)
    features = run(
        recorded.biomedclip(golden), lambda tower, image: tower(image), pixels(golden["in/pixel_values"])
    )  # fmt: skip
    close(features, golden["out/features"])
