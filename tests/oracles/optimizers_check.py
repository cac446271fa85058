"""Hold an optimizer against its paper, optax, and golden files: 200 float32 steps on one small tree of parameters.

The gradients are given, not a function of the parameters, so that what differs is the optimizer's arithmetic alone.
"""

import functools
import inspect
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import jaxopt_lite as jol
from tests.oracles.optimizers import trajectory, wide

STEPS = 200
SHAPES = {"bias": (3,), "kernel": (4, 3), "turn": (2,)}
ALL, REAL = (
    tuple(SHAPES),
    ("bias", "kernel"),
)  # turn is complex; leaves are few, since each costs compile time


def schedule(step):
    """A learning rate that falls by half in 50 steps; a formula that NumPy and JAX both evaluate."""
    return 0.02 / (1 + 0.02 * step)


def mask(params):
    """True at the leaves of rank 2."""
    return jax.tree.map(lambda p: jnp.ndim(p) == 2, params)


DECAY = {"weight_decay": 0.1, "mask": mask}


@functools.cache
def data():
    """Parameters, and 200 gradients of sizes 1e-3 … 10 with some drift; the first entry of ``bias`` never has one."""
    rng = np.random.default_rng(0)
    normal = lambda name, shape: (
        rng.normal(size=shape) + (1j * rng.normal(size=shape) if name == "turn" else 0)
    )
    dtype = lambda name: np.complex64 if name == "turn" else np.float32
    params = {n: normal(n, s).astype(dtype(n)) for n, s in SHAPES.items()}
    size = {n: 10 ** rng.uniform(-3, 1, s) for n, s in SHAPES.items()}
    size["bias"][0] = 0
    drift = {n: 0.5 * normal(n, s) for n, s in SHAPES.items()}
    grads = {n: (size[n] * (normal(n, (STEPS, *s)) + drift[n])).astype(dtype(n)) for n, s in SHAPES.items()}
    return params, grads


@functools.cache
def path(tx, names=ALL, extra=None):
    """The float32 updates of all steps, as float64, from one compiled scan; ``extra`` makes extra arguments."""
    params, grads = ({n: tree[n] for n in names} for tree in data())

    def body(carry, g):
        state, p = carry
        updates, state = tx.update(g, state, p, **(extra() if extra else {}))
        return (state, jol.apply_updates(p, updates)), updates

    run = jax.jit(lambda p, g: jax.lax.scan(body, (tx.init(p), p), g)[1])
    updates = jax.device_get(run(params, grads))
    return {n: u.astype(np.result_type(u.dtype, np.float64)) for n, u in updates.items()}


def against_paper(tx, rule_of, *, roundings=16, names=ALL, extra=None, stored=0.0):
    """Assert that every entry's sum of updates is the formula's to ``roundings`` roundings of the way it went.

    ``rule_of(name)`` is the rule of that leaf, run in float64 from the same parameters and gradients. Where an update
    is a difference of parameters, rounding these counts as well: ``stored`` times 1.2e-7 of their size.
    """
    params, grads = data()
    got = path(tx, names, extra)
    for name in names:
        expected = trajectory(rule_of(name), params[name], grads[name])
        eps = np.finfo(np.float32).eps
        close(tx, name, got[name], expected, roundings * eps, stored * eps * np.max(np.abs(expected), axis=0))


def close(tx, name, updates, expected, tolerance, floor=1e-37):
    """Compare the sum of updates after each step with the change of the parameters, relative to the way gone."""
    way = np.cumsum(np.abs(np.diff(expected, axis=0)), axis=0)
    error = np.abs(np.cumsum(updates, axis=0) - (expected[1:] - expected[0]))
    wrong = ~(error <= tolerance * way + floor + 1e-37)
    if wrong.any():
        at = tuple(np.argwhere(wrong)[0])
        worst = np.max(error / np.maximum(way, 1e-37)) / np.finfo(np.float32).eps
        raise AssertionError(
            f"{tx}: {name}{list(at[1:])} at step {at[0] + 1} has moved {np.cumsum(updates, axis=0)[at]!r}, "
            f"expected {(expected[1:] - expected[0])[at]!r}; {wrong.sum()} of {wrong.size} wrong, "
            f"the worst by {worst:.3g} roundings of the way"
        )


def rules(oracle, learning_rate, options):
    """The rule of each leaf: without weight decay where the mask is False."""
    options = dict(options)
    chosen = next((options.pop(key) for key in ("mask", "weight_decay_mask") if key in options), None)
    decay = next((key for key in ("weight_decay", "weight_decay_rate") if key in options), None)
    active = chosen(data()[0]) if chosen else dict.fromkeys(SHAPES, True)
    return lambda name: oracle(
        learning_rate, **(options | ({} if active[name] or not decay else {decay: 0.0}))
    )


def check(factory, oracle, options, *, learning_rate=1e-2, peer=None, rtol=1e-5, roundings=16, names=None):
    """``against_paper`` for a factory and an oracle with the same options, and ``against_optax`` where asked.

    The complex leaf takes part where the options are the defaults.
    """
    names = names or (REAL if options else ALL)
    tx = factory(learning_rate, **options)
    against_paper(tx, rules(oracle, learning_rate, options), roundings=roundings, names=names)
    if peer is not None:
        against_optax(tx, peer(learning_rate, **options), rtol=rtol, names=names)


def against_optax(tx, peer, *, rtol=1e-5, steps=100, names=REAL, extra=None):
    """Assert that the changes of the real leaves in 100 steps are optax's, relative to the largest of the leaf."""
    ours, theirs = path(tx, names, extra), path(peer, REAL, extra)
    for name in REAL:
        got, expected = (np.sum(updates[name][:steps], axis=0) for updates in (ours, theirs))
        error, size = np.max(np.abs(got - expected)), np.max(np.abs(expected))
        assert error <= rtol * size, f"{tx}: {name} differs from optax by {error / size:.3g} of its change"


def as_one_array(tx, rule, *, roundings=16):
    """``against_paper`` for a rule that sees all real leaves at once, as one array.

    It takes each step from our float32 parameters: it reads how far they have come, and rounding them to 6e-8 where
    the first steps are 1e-6 changes that by a twentieth.
    """
    join = lambda tree, first: np.concatenate([tree[n].reshape(*first, -1) for n in REAL], axis=-1)
    params, grads = data()
    updates, grads = join(path(tx, REAL), (STEPS,)), join(grads, (STEPS,))
    p, memory, steps = join(params, ()), {}, []
    for t, (u, g) in enumerate(zip(updates, grads, strict=True), start=1):
        steps.append(rule(t, wide(p), wide(g), memory) - p)
        p = p + u.astype(np.float32)
    expected = np.cumsum([np.zeros_like(steps[0]), *steps], axis=0)
    close(tx, "all", updates, expected, roundings * np.finfo(np.float32).eps)


def same_signature(factory, peer, *, without=(), keyword_only=(), positional=()):
    """Assert optax's arguments in optax's order with optax's defaults; our own are keyword-only.

    ``without`` are optax's that we leave out, ``positional`` those among them that we have with another default.
    """
    ours, theirs = (inspect.signature(f).parameters for f in (factory, peer))
    keyword = inspect.Parameter.KEYWORD_ONLY
    common = [name for name in theirs if name not in without or name in positional]
    assert [name for name in ours if name in theirs] == common
    for name, argument in ours.items():
        moved = name not in theirs or name in keyword_only
        assert argument.kind is (keyword if moved else theirs[name].kind), name
        if name in common and name not in positional:
            assert argument.default == theirs[name].default, name


@functools.cache
def golden(file):
    """A golden file: parameters, gradients, and paths of the parameters by case."""
    return json.loads((pathlib.Path(__file__).parent.parent / "golden" / file).read_text())


def against_golden(tx, file, case, *, rtol=1e-12, read=lambda state, params: params):
    """Assert that the float64 path is the recorded one, relative to the largest change of each leaf.

    ``read`` takes what was recorded from the state and the parameters.
    """
    record = golden(file)
    as_arrays = lambda tree: {n: jnp.asarray(np.array(x)) for n, x in tree.items()}
    with jax.enable_x64(True):
        params, grads = as_arrays(record["params"]), as_arrays(record["grads"])

        def body(carry, g):
            state, p = carry
            updates, state = tx.update(g, state, p)
            p = jol.apply_updates(p, updates)
            return (state, p), read(state, p)

        got = jax.device_get(jax.jit(lambda p, g: jax.lax.scan(body, (tx.init(p), p), g)[1])(params, grads))
    for name, expected in record["paths"][case].items():
        expected = np.array(expected)
        size, error = np.max(np.abs(expected - record["params"][name])), np.max(np.abs(got[name] - expected))
        assert error <= rtol * size, f"{tx}: {name} differs from {case} by {error / size:.3g} of its change"
