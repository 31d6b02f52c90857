"""Settings of every test: four CPU devices, no silent rank promotion, examples that do not depend on the clock, and one
folder of compiled programs.
"""

import os
import tempfile

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Workers and the processes that tests start share compiled programs, outside the home directory.
    compiled = tempfile.TemporaryDirectory(prefix="r2t2-compiled-")  # deleted with the process that made it
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import hypothesis
import jax

jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("r2t2", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("r2t2")
