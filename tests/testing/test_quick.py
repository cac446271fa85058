"""Quick compilation gives the same numbers, and rounds where the program says so."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_lite.testing.quick import options, quick_jit


def test_the_options_are_known_to_this_version_of_xla():
    assert len(options()) >= (3 if jax.default_backend() == "cpu" else 1)


def test_numbers_are_those_of_jit():
    f = lambda x: jnp.cumsum(jnp.sin(x) ** 2) / (1 + jnp.linalg.norm(x))
    x = jnp.linspace(-3, 3, 50)
    np.testing.assert_allclose(quick_jit(f)(x), jax.jit(f)(x), rtol=1e-6)


def test_sixteen_bit_sums_are_rounded_at_every_step():
    def count(x, one):
        for _ in range(300):
            x = x + one
        return x

    assert float(quick_jit(count)(jnp.bfloat16(0), jnp.bfloat16(1))) == 256
