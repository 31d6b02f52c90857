"""Parameters sharded over eight devices give the results of one device."""

import os
import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ports.common.checkpoint.mapping import named
from ports.common.sharding import specification
from ports.mova.config import MovaConfig
from ports.mova.modeling import abstract
from ports.mova.port import RULES, shardings
from r2t2_jax.errors import R2T2Error

PROGRAM = """
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ports.mova.port import shardings
from tests.ports.mova.tiny import drawn_answers, drawn_inputs, tiny

model, params = tiny()
inputs, answers = drawn_inputs(rows=2), drawn_answers(rows=2)

@jax.jit
def logits(params, inputs, answers):
    def per_sample(inputs, answer):
        features = model.encode(params, inputs)
        net, prompt = model._prefill(params, features, None)
        return net.answer_logits(prompt, answer)
    return jax.vmap(per_sample)(inputs, answers)

with jax.default_matmul_precision("highest"):
    single = np.asarray(logits(params, inputs, answers))
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "model"))
    sharded_params = jax.device_put(params, shardings(params, mesh))
    cut = sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(sharded_params))
    data = jax.device_put((inputs, answers), NamedSharding(mesh, PartitionSpec("data")))
    sharded = np.asarray(logits(sharded_params, *data))
print(cut, float(np.abs(sharded - single).max()), float(np.abs(single).max()))
"""


@pytest.mark.slow
def test_eight_devices_equal_one():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env={**os.environ, **flags}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    cut, apart, largest = map(float, done.stdout.split())
    assert cut > 60
    assert largest > 0.5
    assert apart < 2e-5 * max(largest, 1)


def test_every_large_matrix_of_the_full_model_is_sharded_and_every_rule_is_used():
    shapes = named(abstract(MovaConfig.full_8b())[1])
    whole = [
        path
        for path, leaf in shapes.items()
        if leaf.ndim >= 2 and specification(path, leaf.shape, 2, RULES) == PartitionSpec()
    ]
    size = sum(shapes[path].size for path in whole)
    assert size < 0.01 * sum(leaf.size for leaf in shapes.values())
    for pattern, _ in RULES:
        assert any(re.fullmatch(pattern, path) for path in shapes), pattern


def test_a_mesh_without_the_axis_is_refused():
    params = abstract(MovaConfig.tiny())[1]
    mesh = SimpleNamespace(shape={"data": 4}, axis_names=("data",))
    with pytest.raises(R2T2Error, match="'model'"):
        shardings(params, mesh)
    real = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("model",))
    assert jax.tree.leaves(shardings(params, real))
