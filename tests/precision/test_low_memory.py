"""low_memory_adamw: its bytes, its laws, and that it is the combination that it says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol


@pytest.mark.parametrize(
    ("options", "limit"), [({}, 6.02), ({"correction": "int8"}, 5.02), ({"codec": "int4"}, 5.02)], ids=str
)
def test_bytes_a_parameter(options, limit):
    params = jax.eval_shape(lambda: jnp.zeros((4096, 1024), jnp.bfloat16))
    state = jax.eval_shape(jol.low_memory_adamw(1e-3, **options).init, params)
    assert jol.state_bytes((params, state)) / params.size < limit


def test_it_is_the_combination():
    params = jnp.linspace(-1, 1, 8192, dtype=jnp.bfloat16).reshape(64, 128)
    one = jol.low_memory_adamw(1e-2, weight_decay=0.1)
    two = jol.master_weights(jol.quantize_state(jol.adamw(1e-2, weight_decay=0.1)), "int16")
    for tx in (one, two):
        assert jax.tree.structure(tx.init(params)) == jax.tree.structure(one.init(params))
    got, want = (tx.update(params, tx.init(params), params)[0] for tx in (one, two))
    np.testing.assert_array_equal(got, want)


def test_a_regression_ends_near_that_of_float32():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(256, 64)), rng.normal(size=(256, 64))
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    loss = lambda w: jnp.mean((x @ w.astype(jnp.float32) - y) ** 2)

    def end(tx, dtype):
        @jax.jit
        def body(carry, _):
            w, state = carry
            updates, state = tx.update(jax.grad(loss)(w), state, w)
            return (optax.apply_updates(w, updates), state), None

        w = jnp.zeros((64, 64), dtype)
        return float(loss(jax.lax.scan(body, (w, tx.init(w)), None, length=300)[0][0]))

    best = end(jol.adamw(1e-2), jnp.float32)
    assert end(jol.low_memory_adamw(1e-2), jnp.bfloat16) < 1.005 * best
