"""Laws about numbers: zero, tiny, huge and NaN gradients, symmetries, derivatives, descent, oracles."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxopt_lite.testing import trees
from jaxopt_lite.testing.compare import (
    expect,
    expect_close,
    expect_equal,
    expect_finite,
    expect_settled,
    plain,
    show,
)
from jaxopt_lite.testing.quick import quick_jit
from jaxopt_lite.testing.report import NotRun
from jaxopt_lite.testing.transformation_case import TransformationCase as Case

# Value and slope as functions of p − t.
PROBLEMS: dict[str, tuple[Any, Any]] = {
    "½‖p − t‖²": (lambda d: 0.5 * d**2, lambda d: d),
    "Σ log cosh(p − t)": (lambda d: np.logaddexp(d, -d) - np.log(2), np.tanh),
}


def zero_gradient_gives_zero_update(case: Case) -> None:
    """A zero gradient on a fresh state moves nothing: a parameter that nothing pulls at must not drift."""
    params = trees.zeros(case.params) if "decays" in case.claims else case.params
    updates = case.run([trees.zeros(params)], params).updates
    expect_equal(updates, [trees.zeros(params)], "the update for a zero gradient", input="zero gradients")


def zero_gradient_in_16_bit(case: Case) -> None:
    """Zero entries stay finite in 16 bits: an ε of 1e-8 is 0 in float16, and 0/0 is NaN in the whole leaf."""
    for dtype in (jnp.float16, jnp.bfloat16):
        params = trees.cast(case.params, dtype)
        for grads, what in (
            (trees.zeros(params), "all"),
            (trees.put(case.gradients(1, params)[0], 0.0), "one"),
        ):
            updates = case.run([grads], params, move=False).updates
            expect_finite(updates, "the update", input=f"{dtype.__name__}, {what} of the entries zero")


def zero_coordinate_stays(case: Case) -> None:
    """[claim: elementwise] A zero entry whose gradient is always zero does not move, whatever the others do."""
    case.needs("elementwise")
    grads = [trees.put(g, 0.0) for g in case.gradients(3)]
    updates = case.run(grads, trees.put(case.params, 0.0)).updates
    first = [plain(jax.tree.leaves(u)[0]).reshape(-1)[0] for u in updates]
    expect(
        not any(first), "an entry without gradient moves", input="its gradient is 0", got=first, expected=0
    )


def tiny_gradients(case: Case) -> None:
    """Gradients of 1e-30 and 1e-10 give finite updates and state: their squares underflow to 0."""
    for size in (1e-30, 1e-10):
        done = case.run([trees.scaled(g, size) for g in case.gradients(2)])
        expect_finite(done.updates, "the update", input=f"gradients of {size:g}")
        expect_finite(done.state, "the state", input=f"gradients of {size:g}")


def huge_gradients(case: Case) -> None:
    """Gradients of 1e10 and 1e20 give finite updates, not all 0, and finite state: 1e20² is infinite in float32."""
    for size in (1e10, 1e20):
        done = case.run([trees.scaled(g, size) for g in case.gradients(2)], move=False)
        moves = any(plain(u).any() for u in jax.tree.leaves(done.updates))
        expect(moves, "every update is zero", input=f"gradients of {size:g}")
        expect_finite(done.updates, "the update", input=f"gradients of {size:g}")
        expect_finite(done.state, "the state", input=f"gradients of {size:g}")


def nan_stays(case: Case) -> None:
    """[claims: elementwise, leafwise, nan_stays, nan_spreads] A NaN in a gradient goes where it is said to go."""
    case.needs("elementwise", "leafwise", "nan_stays", "nan_spreads")
    updates = case.run([trees.put(case.gradients(1)[0], np.nan)]).updates[0]
    first, *others = [np.isnan(plain(u)).reshape(-1) for u in jax.tree.leaves(updates)]
    others_hit = any(o.any() for o in others)
    if "nan_spreads" in case.claims:
        everywhere = first.all() and all(o.all() for o in others)
        return expect(everywhere, "the NaN does not spread", got=show(updates))
    bounds = "its entry" if "elementwise" in case.claims else "its leaf"
    strays = others_hit or (bounds == "its entry" and first[1:].any())
    expect(not strays, f"a NaN leaves {bounds}", input="one NaN", got=show(updates))
    expect(first[0], "a NaN is hidden", input="one NaN", got=show(updates), expected="NaN in its place")


def recovers_after_nan(case: Case) -> None:
    """[claim: skips_nonfinite] A step with NaN or inf is as if it had not been, since NaN·0 is still NaN."""
    case.needs("skips_nonfinite")
    grads = case.gradients(3)
    want = case.run(grads)
    for bad in (np.nan, np.inf):
        got = case.run([grads[0], trees.put(grads[1], bad), *grads[1:]])
        expect_equal(got.updates[1], trees.zeros(got.updates[1]), "the skipped update", input=bad)
        expect_close(got.params, want.params, "the parameters after a skipped step", input=bad)


def leaves_are_independent(case: Case) -> None:
    """[claims: elementwise, leafwise] Other leaves' gradients do not matter: no hidden global norm or count."""
    case.needs("elementwise", "leafwise")
    changed = []
    for g in case.gradients(3):
        first, *rest = jax.tree.leaves(g)
        changed.append(jax.tree.unflatten(jax.tree.structure(g), [first, *trees.scaled(rest, 100.0)]))
    got, want = ([jax.tree.leaves(u)[0] for u in t.updates] for t in (case.run(changed), case.ordinary()))
    expect_close(got, want, "the first leaf's update", rtol=1e-6, input="other leaves' gradients times 100")


def permutation_equivariant(case: Case) -> None:
    """[claim: elementwise] Entries in another order give the same updates in that order: no entry is special."""
    case.needs("elementwise")
    mix = trees.permuted
    got = case.run([mix(g) for g in case.gradients(3)], mix(case.params)).updates
    expect_close(got, [mix(u) for u in case.ordinary().updates], "the permuted update", rtol=1e-6)


def odd(case: Case) -> None:
    """[claim: odd] Gradients and parameters negated give updates negated: neither direction is preferred."""
    case.needs("odd")
    flip = lambda tree: trees.scaled(tree, -1.0)
    got = case.run([flip(g) for g in case.gradients(3)], flip(case.params)).updates
    expect_close(got, [flip(u) for u in case.ordinary().updates], "the update of −g", rtol=1e-6)


def scale_invariant(case: Case) -> None:
    """[claim: scale_invariant] Gradients 1024 times larger give the same updates: the loss's unit is no matter."""
    case.needs("scale_invariant")
    got = case.run([trees.scaled(g, 1024.0) for g in case.gradients(3)]).updates
    expect_close(got, case.ordinary().updates, "the update of 1024·g", rtol=1e-3)


def linear(case: Case) -> None:
    """[claim: linear] Updates of 2·g + h are 2·u(g) + u(h), over several steps: averaging gradients is fair."""
    case.needs("linear")
    add = lambda a, b: trees.mapped(lambda x, y: 2 * x + y, a, b)
    gs, hs = case.gradients(3), case.gradients(3, seed=1)
    one, two, both = (case.run(x, move=False).updates for x in (gs, hs, list(map(add, gs, hs))))
    expect_close(both, list(map(add, one, two)), "the update of 2·g + h", rtol=1e-5)


def differentiable(case: Case) -> None:
    """The derivative of two updates by the gradient is finite: learned optimizers and MAML go through it."""
    expect_finite(_derivative(case, case.gradients(1)[0]), "the derivative", input="ordinary gradients")


def differentiable_at_zero(case: Case) -> None:
    """The derivative is finite at zero gradients too, where a square root's own derivative is infinite."""
    expect_finite(_derivative(case, trees.zeros(case.params)), "the derivative", input="zero gradients")


def _derivative(case: Case, grads: Any) -> Any:
    """Reverse mode through two steps, by the gradient of each; one program, the pullback of a step, runs twice."""
    pull = case.remember("pullback", lambda: quick_jit(partial(_pullback, case)))
    weights, start = jax.tree.leaves(case.gradients(1, seed=5)), case.tx.init(case.params)
    middle = case.step(grads, start, case.params)[1]
    end = case.step(grads, middle, case.params)[1]
    second, through = pull(grads, middle, weights, trees.zeros(_floats(end)))
    first, _ = pull(grads, start, weights, through)
    return first, second


def _pullback(case: Case, grads: Any, state: Any, weights: Any, state_weights: list[Any]) -> Any:
    leaves, treedef = jax.tree.flatten(state)

    def step(grads: Any, floats: list[Any]) -> Any:
        values = iter(floats)
        whole = jax.tree.unflatten(treedef, [next(values) if _is_float(x) else x for x in leaves])
        updates, after = case.update(grads, whole, case.params)
        return jax.tree.leaves(updates), _floats(after)

    return jax.vjp(step, grads, _floats(state))[1]((weights, state_weights))


def _floats(state: Any) -> list[Any]:
    return [x for x in jax.tree.leaves(state) if _is_float(x)]


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def accumulation_equals_large_batch(case: Case) -> None:
    """Four micro-gradients accumulated give the update of their mean: the state must pass through ``lax.cond``."""
    if case.extra is not None:
        raise NotRun("extra arguments belong to one micro-gradient only")
    grads = case.gradients(4)
    mean = trees.mapped(lambda *g: sum(g) / 4, *grads)
    steps = optax.MultiSteps(case.tx, 4)
    update = quick_jit(lambda g, s, p: steps.update(g, s, p))
    got = case.run(grads, state=steps.init(case.params), step=update).updates[-1]
    expect_close(got, case.run([mean]).updates[0], "the accumulated update", rtol=1e-4)


def descends(case: Case) -> None:
    """Both canonical problems, ½‖p − t‖² and Σ log cosh(p − t), go down in 200 steps: the sign is right."""
    target = jax.tree.map(np.asarray, trees.scaled(trees.gradients_like(case.params, 8), 2.0))
    for name, (value, slope) in PROBLEMS.items():
        with np.errstate(all="ignore"):
            start, end = _losses(case, target, value, slope)
        got = f"{start:.6g} → {end:.6g}"
        expect(end < start, "the loss does not fall", input=name, got=got, expected="lower")


def _losses(case: Case, target: Any, value: Any, slope: Any, steps: int = 200) -> tuple[float, float]:
    """Loss before and after so many steps; a part of a chain is followed by a learning rate of −0.01."""
    scale = 1.0 if case.sign < 0 else -0.01
    params, state = jax.tree.map(np.asarray, case.params), case.tx.init(case.params)
    pairs = lambda p: zip(jax.tree.leaves(p), jax.tree.leaves(target), strict=True)
    loss = lambda p: sum(float(value(plain(x) - t).sum()) for x, t in pairs(p))
    start = loss(params)
    for t in range(steps):
        before = state
        grads = jax.tree.map(lambda p, t: slope(p - t).astype(p.dtype), params, target)
        updates, state = case.step(grads, state, params, loss(params) if case.extra else 1.0)
        if t < 5:
            expect_settled(state, before, t)
        params = jax.tree.map(lambda p, u: (p + scale * np.asarray(u)).astype(p.dtype), params, updates)
    return start, loss(params)


def matches_oracle(case: Case) -> None:
    """[oracle given] Five steps agree with the float64 formula: every other law can hold for a wrong formula."""
    if case.oracle is None:
        raise NotRun("needs oracle=")
    grads = [trees.scaled(g, 2.0**t) for t, g in enumerate(case.gradients(5))]
    expected = case.oracle(jax.tree.map(plain, case.params), [jax.tree.map(plain, g) for g in grads])
    expect_close(case.run(grads, move=False).updates, list(expected), "the update", rtol=1e-5)
