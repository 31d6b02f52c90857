"""Learning rates: optax's schedules, against the closed form and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.search.gradient_descent import Cosine, Fixed, StepDecay, learning_rates


def closed_form(initial, final, step, steps):
    """The cosine of R2-T2, section 4.1."""
    return final + (initial - final) * (1 + np.cos(np.pi * step / steps)) / 2


@pytest.mark.parametrize(("initial", "final", "steps"), [(1e-2, 1e-5, 10), (0.3, 0.0, 7), (0.1, 0.1, 3), (0.0, 0.2, 5)])
def test_the_cosine_equals_the_closed_form_to_a_billionth(initial, final, steps):
    with jax.enable_x64(True):
        rate = Cosine(initial, final)(steps)
        rates = [float(rate(jnp.float64(step))) for step in range(steps + 1)]
    np.testing.assert_allclose(rates, closed_form(initial, final, np.arange(steps + 1), steps), atol=1e-9)


def test_the_cosine_equals_optax_with_its_own_initial_value_and_alpha():
    reference = optax.cosine_decay_schedule(0.3, 10, 0.01 / 0.3)
    expected = [reference(step) for step in range(10)]
    np.testing.assert_allclose(learning_rates(Cosine(0.3, 0.01), 10), expected, rtol=1e-6)


def test_the_cosine_starts_at_the_first_rate_and_ends_at_the_last():
    rate = Cosine(1e-2, 1e-5)(10)
    np.testing.assert_allclose(rate(0), 1e-2, rtol=1e-6)
    np.testing.assert_allclose(rate(10), 1e-5, rtol=1e-4)
    assert not learning_rates(Cosine(0.0, 0.0), 10).any()


def test_step_decay_and_fixed():
    rates = learning_rates(StepDecay(0.8, 0.5, 3), 7)
    np.testing.assert_allclose(rates, [0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2], rtol=1e-6)
    np.testing.assert_array_equal(learning_rates(Fixed(0.25), 3), [0.25] * 3)


def test_rates_are_traced_and_strict_dtype_promotion_is_supported():
    compiled = jax.jit(learning_rates, static_argnums=1)
    with jax.numpy_dtype_promotion("strict"):
        for kind in (Cosine, StepDecay, Fixed):
            compiled(kind(0.1), 10)
            programs = compiled._cache_size()
            compiled(kind(0.2), 10)
            assert compiled._cache_size() == programs


def test_bad_rates_are_refused():
    for make in (lambda: Cosine(-1.0), lambda: Cosine(0.1, -0.1), lambda: Fixed(float("nan")), lambda: StepDecay(-1.0)):
        with pytest.raises(R2T2Error, match="learning rate"):
            make()
    with pytest.raises(R2T2Error, match="every 0 steps"):
        StepDecay(every=0)
    with pytest.raises(R2T2Error, match=r"factor of 0\.0; it must be positive"):
        StepDecay(factor=0.0)
