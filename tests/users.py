"""How tests compile: as users do, where they look at a program's memory, and whole functions for speed elsewhere.

And how compilers for GPUs and TPUs compute, which a CPU's does not: with excess precision.
"""

import functools
import inspect
import os

import jax
import numpy as np

import jaxopt_lite as jol

OPTIONS = {
    "xla_backend_optimization_level": 3,
    "xla_cpu_use_fusion_emitters": True,
    "xla_cpu_parallel_codegen_split_count": 32,
}


def compiled(lowered):
    """The executable of a lowered program, with XLA's own settings."""
    flags = os.environ.get("XLA_FLAGS", "")
    return lowered.compile({name: value for name, value in OPTIONS.items() if name in flags} or None)


def compiled_step(tx, params, apply_updates=jol.apply_updates):
    """The executable of an update and its application, with parameters and state donated, as loops run it."""

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return apply_updates(params, updates), state

    state = jax.eval_shape(tx.init, params)
    return compiled(jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params))


class Jitted:
    """A module whose functions are compiled whole, which takes a test less time than operation by operation."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        found = getattr(self.module, name)
        return jitted(found) if inspect.isfunction(found) else found


def jitted(f):
    """``f`` under ``jit``, where every argument that is no array is static."""

    @functools.wraps(f)
    def call(*args, **options):
        given = {str(i): value for i, value in enumerate(args)} | options
        arrays = {
            name: value for name, value in given.items() if isinstance(value, jax.Array | np.ndarray | list)
        }
        static = tuple((name, value) for name, value in given.items() if name not in arrays)
        return _program(f, static, len(args))(arrays)

    return call


@functools.cache
def _program(f, static, count):
    def run(arrays):
        given = dict(static) | arrays
        args = [given.pop(str(i)) for i in range(count)]
        return f(*args, **given)

    return jax.jit(run)


def with_excess_precision(f):
    """``f``, where a value that is rounded to a narrower float and widened again was never rounded.

    XLA leaves out such pairs of casts on GPUs and TPUs (``xla_allow_excess_precision``).
    """

    @functools.wraps(f)
    def run(*args):
        closed, shapes = jax.make_jaxpr(f, return_shape=True)(*args)
        leaves = _evaluate(closed, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), leaves)

    return run


def _evaluate(closed, leaves):
    """The jaxpr's results; a value that was rounded to a narrower float is held as it was, until it is used."""
    values = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    values |= dict(zip(closed.jaxpr.invars, leaves, strict=True))
    held = lambda v: v.val if hasattr(v, "val") else values[v]
    used = lambda v: _cast(held(v), v.aval)
    for eqn in closed.jaxpr.eqns:
        if eqn.primitive.name == "convert_element_type":
            (source,), (target,) = eqn.invars, eqn.outvars
            narrowed = _is_float(source) and _is_float(target) and target.aval.dtype.itemsize < 4
            found = [held(source) if narrowed else _cast(held(source), target.aval)]
        elif eqn.primitive.name in ("jit", "pjit"):
            found = _evaluate(eqn.params["jaxpr"], map(used, eqn.invars))
        else:
            found = eqn.primitive.bind(*map(used, eqn.invars), **eqn.params)
            found = found if eqn.primitive.multiple_results else [found]
        values |= dict(zip(eqn.outvars, found, strict=True))
    return [used(v) for v in closed.jaxpr.outvars]


def _is_float(v):
    return jax.numpy.issubdtype(v.aval.dtype, jax.numpy.floating)


def _cast(value, aval):
    numbers = jax.numpy.issubdtype(aval.dtype, jax.numpy.number)  # and no random key
    return jax.numpy.asarray(value, aval.dtype) if numbers else value
