"""Learning rates against optax and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.search.gradient_descent import Cosine, Fixed, StepDecay


@pytest.mark.parametrize(("initial", "final", "steps"), [(1e-2, 1e-5, 10), (0.3, 0.0, 7), (0.1, 0.1, 3)])
def test_cosine_is_optaxs(initial, final, steps):
    reference = optax.cosine_decay_schedule(initial, steps, final / initial)
    ours = [Cosine(initial, final)(jnp.asarray(t), steps) for t in range(steps + 1)]
    np.testing.assert_allclose(ours, [reference(t) for t in range(steps + 1)], rtol=1e-6, atol=1e-9)


def test_cosine_starts_at_the_first_rate_and_would_end_at_the_last():
    schedule = Cosine(1e-2, 1e-5)
    np.testing.assert_allclose(schedule(jnp.asarray(0), 10), 1e-2, rtol=1e-6)
    np.testing.assert_allclose(schedule(jnp.asarray(10), 10), 1e-5, rtol=1e-4)
    assert Cosine(0.0, 0.0)(jnp.asarray(3), 10) == 0


def test_step_decay_and_fixed():
    rates = [float(StepDecay(0.8, 0.5, 3)(jnp.asarray(t), 10)) for t in range(7)]
    np.testing.assert_allclose(rates, [0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2], rtol=1e-6)
    assert float(Fixed(0.25)(jnp.asarray(9), 10)) == 0.25


def test_strict_dtype_promotion_is_survived():
    with jax.numpy_dtype_promotion("strict"):
        for schedule in (Cosine(), StepDecay(), Fixed()):
            jax.jit(lambda s, t: s(t, 10))(schedule, jnp.asarray(2))


def test_bad_rates_are_refused():
    for make in (lambda: Cosine(-1.0), lambda: Cosine(0.1, -0.1), lambda: Fixed(float("nan")), lambda: StepDecay(-1.0)):
        with pytest.raises(R2T2Error, match="learning rate"):
            make()
    with pytest.raises(R2T2Error, match="every 0 steps"):
        StepDecay(every=0)
