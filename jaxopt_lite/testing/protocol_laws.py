"""Laws about JAX itself: what jit, scan, vmap, donation, checkpoints and optax's protocol ask of a transformation."""

import inspect
import io
import pickle
import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxopt_lite.testing import trees
from jaxopt_lite.testing.compare import expect, expect_close, expect_equal, expect_finite, expect_like, plain
from jaxopt_lite.testing.quick import quick_jit
from jaxopt_lite.testing.report import NotRun
from jaxopt_lite.testing.transformation_case import TransformationCase as Case
from jaxopt_lite.testing.transformation_case import build


def structure_kept(case: Case) -> None:
    """Updates have the tree, shapes and dtypes of the gradients; else ``p + u`` fails, broadcasts or upcasts."""
    grads = case.gradients(1)
    updates = case.run(grads, move=False).updates[0]
    expect_like(updates, grads[0], "the updates")
    expect_finite(updates, "the first update")


def state_is_a_fixed_point(case: Case) -> None:
    """``update`` keeps the state's tree, shapes, dtypes and weak types; else step 2 recompiles, ``scan`` fails."""
    before = case.tx.init(case.params)
    after = case.run(case.gradients(1)).state
    expect_like(after, before, "the state after one update", weak=True)


def jit_equals_eager(case: Case) -> None:
    """The compiled update is the plain one; control flow on values of the arrays breaks under ``jit``."""
    eager = case.eager()
    compiled = case.run(case.gradients(2), step=None if case.traceable else jax.jit(case.update))
    expect_close(compiled.updates, eager.updates, "the compiled update", rtol=2e-5)
    expect_close(compiled.state, eager.state, "the compiled state", rtol=2e-5)


def scan_equals_loop(case: Case) -> None:
    """The state is a carry of ``lax.scan``, so that a training loop can be one compiled program."""
    grads, loop = case.gradients(3), case.ordinary()

    def body(carry: Any, g: Any) -> Any:
        updates, state = case.update(g, *carry)
        return (state, optax.apply_updates(carry[1], updates)), updates

    carry = (case.tx.init(case.params), case.params)
    _, updates = quick_jit(lambda c, g: jax.lax.scan(body, c, g))(carry, trees.stacked(grads))
    expect_close(trees.unstacked(updates, 3), loop.updates, "the update inside scan", rtol=1e-4)


def vmap_equals_loop(case: Case) -> None:
    """``vmap`` over replicas is a loop over them: ensembles and sweeps rest on it."""
    many = [case.params, trees.scaled(case.params, 2.0)]
    grads = [case.gradients(1, seed=s)[0] for s in range(2)]
    one = lambda g, p: case.update(g, case.tx.init(p), p)[0]
    got = trees.unstacked(quick_jit(jax.vmap(one))(*map(trees.stacked, (grads, many))), 2)
    expected = [case.run([g], p).updates[0] for g, p in zip(grads, many, strict=True)]
    expect_close(got, expected, "the update under vmap", rtol=1e-4)


def traced_once(case: Case) -> None:
    """Five steps with changing values trace once; a second trace means a compilation in mid-training."""
    traces = []

    @jax.jit
    def counted(*arguments: Any) -> Any:
        traces.append(1)
        return case.update(*arguments)

    def step(*arguments: Any) -> Any:
        counted.eval_shape(*arguments)  # traces as a call would, and compiles nothing
        return case.step(*arguments)

    case.run(case.gradients(5), step=step)
    expect(len(traces) == 1, "update was traced again", input="5 steps", got=len(traces), expected=1)


def init_equals_eval_shape(case: Case) -> None:
    """``init`` works on shapes alone and promises what it then makes: sharded and restored states need it."""
    made = case.tx.init(case.params)
    shapes = jax.eval_shape(lambda p: p, case.params)
    expect_like(jax.eval_shape(case.tx.init, case.params), made, "eval_shape of init")
    expect_like(jax.eval_shape(lambda: case.tx.init(shapes)), made, "init of ShapeDtypeStructs")


def pure(case: Case) -> None:
    """The same arguments give the same answer; state hidden in a Python object is lost by jit and checkpoints."""
    first = case.eager().updates[0]
    second, _ = case.update(case.gradients(1)[0], case.tx.init(case.params), case.params)
    expect_equal(second, first, "the update of a second equal call")


def survives_donation(case: Case) -> None:
    """Parameters and state can both be donated; a state that shares a buffer with them cannot (twice the memory)."""
    hand_over = quick_jit(lambda params, state: (params, state), donate_argnums=(0, 1))
    params = jax.tree.map(jnp.copy, case.params)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
        params, state = hand_over(params, case.tx.init(params))
    got = case.run(case.gradients(3), params, state)
    expect_close(got.params, case.ordinary().params, "the parameters after 3 steps", rtol=1e-5)


def survives_flattening(case: Case) -> None:
    """The state is a tree of arrays: flattened and rebuilt it continues bit for bit."""
    first, second = case.gradients(2)
    kinds = {type(x).__name__ for x in jax.tree.leaves(case.tx.init(case.params)) if not hasattr(x, "dtype")}
    expect(not kinds, "a leaf of the state is no array", got=kinds, expected="arrays")
    done = case.run([first])
    leaves, treedef = jax.tree.flatten(done.state)
    again = case.run([second], done.params, jax.tree.unflatten(treedef, leaves))
    expect_equal(again, case.run([second], done.params, done.state), "the resumed step")


def survives_checkpoint(case: Case) -> None:
    """Leaves written to bytes and read back into a fresh ``init`` continue bit for bit: a resumed run is the run."""
    grads = case.gradients(4)
    half = case.run(grads[:2])
    fresh = jax.tree.structure(case.tx.init(case.params))
    restored = jax.tree.unflatten(fresh, _through_bytes(jax.tree.leaves(half.state)))
    resumed, straight = case.run(grads[2:], half.params, restored), case.run(grads)
    expect_equal(resumed.params, straight.params, "the parameters of the resumed run")


def pickles(case: Case) -> None:
    """[claim: pickles] The transformation pickles and equals its copy: processes exchange it, jit caches by it."""
    case.needs("pickles")
    copy = pickle.loads(pickle.dumps(case.tx))
    expect(
        copy == case.tx and hash(copy) == hash(case.tx),
        "the pickled copy differs",
        got=copy,
        expected=case.tx,
    )
    expect_equal(copy.init(case.params), case.tx.init(case.params), "the state of the pickled copy")


def ignores_extra_arguments(case: Case) -> None:
    """Unknown extra arguments are ignored, since a chain hands every part the arguments of every other."""
    if not isinstance(case.tx, optax.GradientTransformationExtraArgs):
        raise NotRun("a plain GradientTransformation takes no extra arguments")
    state = case.tx.init(case.params)
    known = {} if case.extra is None else case.extra(lambda q: jnp.float32(1.0), case.params)
    update = lambda g: case.tx.update(g, state, case.params, an_argument_of_another_part=1.0, **known)
    (partial(jax.eval_shape, update) if case.traceable else update)(case.gradients(1)[0])


def state_maps_over_params(case: Case) -> None:
    """``optax.tree_utils.tree_map_params`` finds the parameter-like leaves of the state; sharding tools use it."""
    state = case.tx.init(case.params)
    mapped = optax.tree_utils.tree_map_params(case.tx, lambda x: x, state)
    expect_equal(mapped, state, "the state mapped by the identity")


def counter_saturates(case: Case) -> None:
    """A step counter at 2³¹ − 1 stays there; wrapped to negative, bias correction and schedules go wild."""
    counters = _counters(case)
    if not counters:
        raise NotRun("no step counter in the state")
    leaves, treedef = jax.tree.flatten(case.run(case.gradients(1)).state)
    late = [jnp.full_like(x, np.iinfo(x.dtype).max) if i in counters else x for i, x in enumerate(leaves)]
    after = jax.tree.leaves(case.run(case.gradients(1), state=jax.tree.unflatten(treedef, late)).state)
    for i in counters:
        expect(
            int(after[i]) >= 0, "a step counter overflows", input="2³¹ − 1", got=int(after[i]), expected="≥ 0"
        )


def mismatch_raises(case: Case) -> None:
    """[claim: strict] Gradients of another shape or tree are a ValueError, not a silent broadcast."""
    case.needs("strict")
    grads, state = case.gradients(1)[0], case.tx.init(case.params)
    wrong = jax.tree.map(lambda g: g[:1] if g.ndim else g[None], grads)
    for bad, what in ((wrong, "first rows only"), ([grads], "the tree inside a list")):
        try:
            case.update(bad, state, case.params)
        except ValueError:
            continue
        expect(False, "wrong gradients pass", input=what, got="updates", expected="ValueError")


def learning_rate_kinds(case: Case) -> None:
    """A learning rate may be a number, an array or a schedule: same updates, same dtypes, bfloat16 included."""
    if case.factory is None or "learning_rate" not in inspect.signature(case.factory).parameters:
        raise NotRun("needs a factory with the argument learning_rate")
    params, low = case.params, trees.cast(case.params, jnp.bfloat16)
    rates = (0.25, jnp.float32(0.25), lambda step: 0.25)
    cases = [case.sibling(build(case.factory, learning_rate=rate)) for rate in rates]
    dtypes = [c.shapes(low, c.tx.init(low), low)[0] for c in cases]
    first = quick_jit(
        lambda g, states: [c.update(g, s, params)[0] for c, s in zip(cases, states, strict=True)]
    )
    answers = first(case.gradients(1)[0], [c.tx.init(params) for c in cases])
    for kind, like, got in zip(("an array", "a schedule"), dtypes[1:], answers[1:], strict=True):
        expect_like(like, dtypes[0], "the update", input=f"the learning rate is {kind}, bfloat16")
        expect_close(got, answers[0], "the update", rtol=1e-5, input=f"the learning rate is {kind}")


def _through_bytes(leaves: list[Any]) -> list[Any]:
    """Arrays pickled as NumPy and read back; random keys keep their kind."""
    file = io.BytesIO()
    pickle.dump([np.asarray(jax.random.key_data(x) if _is_key(x) else x) for x in leaves], file)
    loaded = pickle.loads(file.getvalue())
    wrap = lambda x, old: jax.random.wrap_key_data(x, impl=jax.random.key_impl(old)) if _is_key(old) else x
    return [wrap(jnp.asarray(x), old) for x, old in zip(loaded, leaves, strict=True)]


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _counters(case: Case) -> list[int]:
    """Integer scalars of the state that count every one of ten steps; none in a state that changes its form."""
    histories, state = [], case.tx.init(case.params)
    for grads in case.gradients(10):
        state = case.run([grads], state=state).state
        histories.append([plain(x) for x in jax.tree.leaves(state)])
    if len({len(h) for h in histories}) > 1:
        return []
    is_counter = lambda xs: xs[0].ndim == 0 and xs[0].dtype == np.int32 and (np.diff(np.stack(xs)) == 1).all()
    return [i for i, xs in enumerate(zip(*histories, strict=True)) if is_counter(xs)]
