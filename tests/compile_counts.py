"""jit for programs that run once: without XLA's optimizations, which halves the time to compile."""

from functools import partial

import jax

quick_jit = partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)
