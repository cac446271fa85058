"""Laws about dtypes: 16-bit training, float64 checks and complex parameters go wrong silently."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_lite.testing import trees
from jaxopt_lite.testing.compare import expect, expect_close, expect_finite, expect_like, plain
from jaxopt_lite.testing.transformation_case import TransformationCase as Case


def dtypes_kept(case: Case) -> None:
    """16-bit gradients give 16-bit updates and the state keeps its dtypes: no recompilation, no doubled memory."""
    for dtype in (jnp.bfloat16, jnp.float16):
        params = trees.cast(case.params, dtype)
        grads, state = case.gradients(1, params), case.tx.init(params)
        done = case.run(grads, params, state, move=False)
        expect_like(done.updates[0], grads[0], "the updates", input=dtype.__name__)
        expect_like(done.state, state, "the state", input=dtype.__name__)


def mixed_dtypes(case: Case) -> None:
    """Gradients in another dtype than the parameters leave the state's dtypes alone: mixed precision does this."""
    for p, g in ((jnp.bfloat16, jnp.float32), (jnp.float32, jnp.bfloat16)):
        params, what = trees.cast(case.params, p), f"{p.__name__} parameters, {g.__name__} gradients"
        grads, state = trees.cast(case.gradients(1)[0], g), case.tx.init(params)
        updates, after = case.shapes(grads, state, params)
        expect_like(after, state, "the state", input=what)
        kinds = {u.dtype.name for u in jax.tree.leaves(updates)}
        allowed = {g.__name__} if "gradient_dtype" in case.claims else {g.__name__, p.__name__}
        expect(kinds <= allowed, "the updates have a wrong dtype", input=what, got=kinds, expected=allowed)


def bfloat16_tracks_float32(case: Case) -> None:
    """300 bfloat16 steps end near the float32 ones: moments kept in bfloat16 stop decaying, as 0.999 rounds to 1."""
    _tracks_float32(case, jnp.bfloat16)


def float16_tracks_float32(case: Case) -> None:
    """300 float16 steps end near the float32 ones: squares of small gradients underflow in float16."""
    _tracks_float32(case, jnp.float16)


def _tracks_float32(case: Case, dtype: Any) -> None:
    """The last updates after 50 gradients of size 2 and 250 twenty times smaller, parameters held fixed."""
    wide = case.remember("in float32", lambda: _long_run(case, jnp.float32))
    ends = _long_run(case, dtype), wide
    expect_finite(ends[0], "the update", input=dtype.__name__)
    rounding = float(jnp.finfo(dtype).smallest_subnormal)  # the update itself is a 16-bit number
    expect_close(
        ends[0], ends[1], "the update after 300 steps", rtol=0.05, atol=rounding, input=dtype.__name__
    )


def _long_run(case: Case, dtype: Any) -> Any:
    """Parameters and gradients are the same numbers in every dtype, rounded to bfloat16."""
    low = trees.cast(case.params, jnp.bfloat16)
    large = trees.gradients_like(low, 0)
    large, small, params = (trees.cast(x, dtype) for x in (large, trees.scaled(large, 0.05), low))
    return case.run([large] * 50 + [small] * 250, params, move=False).updates[-1]


def float64_in_full(case: Case) -> None:
    """With x64 on, float64 gradients give float64 updates that were not rounded to float32 on the way."""
    with jax.enable_x64(True):
        params = trees.cast(case.params, jnp.float64)
        grads = [jax.tree.map(lambda g: g * (1 + 1e-9), x) for x in case.gradients(2, params)]
        state = case.tx.init(params)
        done = case.run(grads, params, state)
        expect_like(done.updates[-1], grads[-1], "the updates", input="float64")
        expect_like(done.state, state, "the state", input="float64")
        rounded = [u for u in map(plain, jax.tree.leaves(done.updates)) if _was_float32(u)]
        expect(not rounded, "computed in float32", input="float64", got=rounded[:1], expected="53-bit values")


def _was_float32(values: np.ndarray) -> bool:
    """Whether long numbers (not just ±1, 0.5 and the like) all fit into float32."""
    short = values == np.ldexp(np.round(np.ldexp(*[np.frexp(values)[0], 12])), np.frexp(values)[1] - 12)
    return bool((~short).any() and (values == values.astype(np.float32)).all())


def complex64(case: Case) -> None:
    """Complex leaves get complex updates; gradients and parameters turned by 90° turn the updates by 90°."""
    params = trees.cast(case.params, jnp.complex64)
    params = jax.tree.map(lambda p, g: p + 0.5j * g, params, trees.gradients_like(params, 3))
    grads = case.gradients(2, params)
    turn = lambda tree: trees.scaled(tree, 1j)
    plain_run, turned = case.run(grads, params), case.run([turn(g) for g in grads], turn(params))
    expect_like(plain_run.updates[-1], grads[-1], "the updates", input="complex64")
    expect_finite(plain_run.updates, "the update", input="complex64")
    expect_close(turned.updates, [turn(u) for u in plain_run.updates], "the turned update", rtol=1e-4)
