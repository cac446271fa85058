"""SAM takes its gradient where the paper says, at any magnitude, and passes everything on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_lite as jol
from jaxopt_lite.wrappers import sam
from tests.oracles import wrappers as oracles
from tests.wrappers.common import MOMENTUM, MOMENTUM_ORACLE, PARAMS, close, equal, wide

CURVATURE = {"bias": jnp.float32([1.0, 3.0, 0.2]), "kernel": jnp.linspace(0.1, 2.0, 12).reshape(4, 3)}


def slope(p):
    """The gradient of Σ c·(p²/2 + p⁴/4), for JAX and NumPy."""
    return jax.tree.map(lambda c, x: c * (x + x**3), CURVATURE, p)


def slope_list(ps):
    return [np.float64(c) * (x + x**3) for c, x in zip(wide(CURVATURE), ps, strict=True)]


def descend(tx, steps, grad_fn=slope, **options):
    params, state, path = PARAMS, tx.init(PARAMS), []
    update = jax.jit(lambda s, p: tx.update(grad_fn(p), s, p, grad_fn=options.get("inner_grad_fn", grad_fn)))
    for _ in range(steps):
        updates, state = update(state, params)
        params = optax.apply_updates(params, updates)
        path.append(params)
    return path


@pytest.mark.parametrize("rho", [0.05, 0.5, 0.0])
def test_equals_its_oracle(rho):
    path, ps = descend(sam(MOMENTUM, rho=rho), 5), wide(PARAMS)
    pair, state = oracles.sam(MOMENTUM_ORACLE, rho), MOMENTUM_ORACLE.init(ps)
    for got in path:
        us, state = pair.update(slope_list(ps), state, ps, grad_fn=slope_list)
        ps = [p + u for p, u in zip(ps, us, strict=True)]
        close(got, ps, rtol=1e-5)


def test_equals_optax_in_its_opaque_mode():
    ours = descend(sam(jol.sgd(0.1), rho=0.2), 4)
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(0.2))
    theirs = optax.contrib.sam(optax.sgd(0.1), adversary, opaque_mode=True)
    want = descend(theirs, 4, inner_grad_fn=lambda p, i: slope(p))
    for a, b in zip(ours, want, strict=True):
        close(a, wide(b), rtol=1e-5)


def test_with_a_radius_of_zero_it_is_the_inner_transformation():
    with jax.disable_jit():  # as one program each, XLA may contract x + x³ in one of them only
        equal(descend(sam(jol.sgd(0.1), rho=0.0), 3), descend(jol.sgd(0.1), 3))


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e20])
def test_the_perturbation_has_norm_rho_at_any_magnitude(size):
    """optax divides by a norm that is 0 for 1e-30 and inf for 1e20."""
    seen = []
    grad_fn = lambda p: (seen.append(p), p)[1]
    p = jnp.zeros(4)
    tx = sam(jol.sgd(1.0), rho=0.5)
    tx.update(jnp.full(4, size), tx.init(p), p, grad_fn=grad_fn)
    np.testing.assert_allclose(seen[0], 0.25 * (size > 0), rtol=1e-6)


def test_16_bits_are_perturbed_in_float32_and_rounded_once():
    seen = []
    grad_fn = lambda p: (seen.append(p), p.astype(jnp.float32))[1]
    p, g = jnp.float16([1.0, 2.0]), jnp.float16([300.0, 400.0])
    tx = sam(jol.sgd(1.0), rho=0.5)
    updates, _ = tx.update(g, tx.init(p), p, grad_fn=grad_fn)
    assert (seen[0].dtype, updates.dtype) == (jnp.float16, jnp.float16)
    np.testing.assert_array_equal(seen[0], np.float16([1.3, 2.4]))


def test_make_step_provides_the_gradient_function():
    loss = lambda p, batch: sum(jnp.sum(batch * (x**2 / 2)) for x in jax.tree.leaves(p))
    step = jol.make_step(loss, sam(jol.sgd(0.1), rho=0.5), donate=False)
    tx = sam(jol.sgd(0.1), rho=0.5)
    params, *_ = step(PARAMS, tx.init(PARAMS), jnp.float32(2.0))
    ps = wide(PARAMS)
    size = oracles.norm(ps)
    close(params, [p - 0.1 * 2 * (p + 0.5 * p / size) for p in ps])


def test_extra_arguments_reach_the_inner_transformation():
    def update(updates, state, params=None, *, value, grad_fn, **extra):
        return jax.tree.map(lambda u: -value * u, updates), state

    tx = sam(optax.GradientTransformationExtraArgs(lambda p: (), update), rho=0.0)
    got, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=2.0, grad_fn=lambda p: p, unknown=1)
    close(got, [-2 * p for p in wide(PARAMS)])


def test_a_parameter_without_gradient_is_not_perturbed():
    p = {"a": jnp.ones(2), "b": jnp.ones(2)}
    tx = sam(jol.sgd(1.0), rho=1.0)
    updates, _ = tx.update({"a": p["a"], "b": None}, tx.init(p), p, grad_fn=lambda q: q)
    assert updates["b"] is None


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"params": None, "grad_fn": slope}, "sam.update: params is None"),
        ({"params": PARAMS}, r"sam.update: the extra argument grad_fn is None, expected grad_fn\(params\)"),
        (
            {"params": PARAMS, "grad_fn": lambda p: (1.0, p)},
            r"sam.update: the tree of grad_fn\(params\) differs",
        ),
    ],
)
def test_errors(keywords, message):
    with pytest.raises(ValueError, match=message):
        sam(MOMENTUM).update(PARAMS, MOMENTUM.init(PARAMS), **keywords)
    with pytest.raises(ValueError, match="sam: rho is -1, expected a number in"):
        sam(MOMENTUM, rho=-1)
