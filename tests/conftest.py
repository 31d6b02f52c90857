"""Settings of every test: four CPU devices, no silent rank promotion, examples that do not depend on the clock."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"

import hypothesis
import jax

jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("r2t2", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("r2t2")
