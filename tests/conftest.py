"""Settings of every test: four CPU devices, no silent rank promotion, examples that do not depend on the clock, and one
folder of programs, compiled without optimizations.
"""

import os
import tempfile
from importlib.metadata import version

import pytest

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4 " + os.environ.get("XLA_FLAGS", "")
os.environ["JAX_PLATFORMS"] = "cpu"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Workers and the processes that tests start share compiled programs, outside the home directory.
    compiled = tempfile.TemporaryDirectory(prefix="r2t2-compiled-")  # deleted with the process that made it
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import hypothesis
import jax

from r2t2_jax.runtime import progress
from r2t2_jax.runtime.compilation_cache import PROGRAMS

jax.config.update("jax_numpy_rank_promotion", "raise")

# A line about work that takes long would depend on the load of the machine; tests of these lines set their own times.
progress.FIRST = 3600.0

hypothesis.settings.register_profile("r2t2", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("r2t2")

# The programs of the fast tests are large and run once on small arrays. Without LLVM's optimizations and the fusion
# emitters XLA compiles them in about a quarter of the time; numbers change by rounding only. Slow tests compute for
# long and keep the defaults. Flags in XLA_FLAGS come last and win.
QUICK_COMPILATION = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false "
)


def pytest_configure(config: pytest.Config) -> None:
    # XLA ends the process at a flag that it does not know, so only the jaxlib versions that were tried get these.
    flags, quick = os.environ["XLA_FLAGS"], config.option.markexpr == "not slow"
    if quick and version("jaxlib").startswith("0.10.") and QUICK_COMPILATION not in flags:  # workers inherit them
        os.environ["XLA_FLAGS"] = QUICK_COMPILATION + flags


def pytest_runtest_teardown() -> None:
    PROGRAMS.check()  # a process of all tests compiles more programs than Linux has memory mappings for
