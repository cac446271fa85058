"""What wrappers share: any optax-protocol transformation as one whose state keeps its form, and choosing by value."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxopt_lite import tree
from jaxopt_lite.compose import _require_transformation
from jaxopt_lite.tree import is_none
from jaxopt_lite.types import Array, Params


def adopt(name: str, tx: Any) -> optax.GradientTransformationExtraArgs:
    """``tx``, ours or not, with a state that keeps dtypes, is of strong type, and shares no buffer.

    ``TypeError`` in the name of the wrapper when it is no transformation.
    """
    _require_transformation(f"{name}: tx", tx)
    inner = optax.with_extra_args_support(tx)

    def init(params):
        return _owned(inner.init(params), params)

    def update(updates, state, params=None, **extra):
        updates, new = inner.update(updates, state, params, **extra)
        return updates, jax.tree.map(_like, new, state)

    return optax.GradientTransformationExtraArgs(init, update)


def _owned(state: Any, params: Any) -> Any:
    """The state as arrays of strong type, each with a buffer of its own."""
    seen = {id(x) for x in jax.tree.leaves(params)}

    def own(x):
        if isinstance(x, (bool, int, float, complex, np.ndarray, np.generic)):
            return jnp.array(x, jnp.result_type(x))
        if id(x) in seen:
            return jnp.copy(x)
        seen.add(id(x))
        return _strong(x)

    return jax.tree.map(own, state)


def _strong(x: Any) -> Any:
    return lax.convert_element_type(x, x.dtype) if getattr(x, "weak_type", False) else x


def _like(new: Any, old: Any) -> Any:
    """``new`` in the dtype of ``old``."""
    if getattr(new, "dtype", None) == getattr(old, "dtype", None):
        return _strong(new)
    return jnp.asarray(new).astype(old.dtype)


def update_dtypes(inner: Any, updates: Any, state: Any, params: Any, extra: dict) -> list:
    """The dtypes in which ``inner`` answers these gradients: theirs, but for wrappers that emit float32 for 16 bits."""
    leaves = jax.tree.leaves(updates, is_leaf=is_none)
    if any(g is not None and g.dtype.itemsize == 2 for g in leaves):
        answer = jax.eval_shape(lambda g, s, p: inner.update(g, s, p, **extra)[0], updates, state, params)
        leaves = jax.tree.leaves(answer, is_leaf=is_none)
    return [None if u is None else u.dtype for u in leaves]


def cast_leaves(updates: Any, dtypes: list) -> Any:
    """Each leaf in its dtype from ``update_dtypes``."""
    leaves, treedef = jax.tree.flatten(updates, is_leaf=is_none)
    cast = [u if u is None else u.astype(dtype) for u, dtype in zip(leaves, dtypes, strict=True)]
    return treedef.unflatten(cast)


def zero_leaves(updates: Any, dtypes: list) -> Any:
    """A zero for each leaf, in its dtype from ``update_dtypes``."""
    leaves, treedef = jax.tree.flatten(updates, is_leaf=is_none)
    zeros = [u if u is None else jnp.zeros_like(u, dtype) for u, dtype in zip(leaves, dtypes, strict=True)]
    return treedef.unflatten(zeros)


def branch(chosen: Any, on_true: Callable, on_false: Callable) -> Any:
    """``lax.cond`` on functions without arguments; outside of ``jit`` the one that is chosen simply runs.

    An untraced ``lax.cond`` would compile both again in every step.
    """
    if not isinstance(chosen, jax.core.Tracer):
        return on_true() if chosen else on_false()
    return lax.cond(chosen, on_true, on_false)


def either(chosen: Any, on_true: Callable, on_false: Callable, ready: Any = None) -> Any:
    """As ``branch``, for what costs about as much as reading and writing it; on accelerators entries are selected.

    There whatever goes into a conditional and comes out of it is an array in memory, copied where it is donated: on a
    GPU three times the parameters for lookahead, where the selection joins the arithmetic before it. A CPU's
    conditional works in place. ``ready`` is the result of ``on_true`` where it is there already: what is selected.
    """
    if not isinstance(chosen, jax.core.Tracer):
        return branch(chosen, on_true, on_false)
    true = (lambda: ready) if ready is not None else on_true
    selected = lambda: jax.tree.map(lambda x, y: jnp.where(chosen, x, y), true(), on_false())
    return lax.platform_dependent(cpu=lambda: lax.cond(chosen, on_true, on_false), default=selected)


def apart(arrays: Any) -> Any:
    """The same arrays, for work that an accelerator is to do twice, rather than once into memory for two readers."""
    return lax.platform_dependent(arrays, cpu=lambda arrays: arrays, default=lax.optimization_barrier)


def all_finite(*trees: Any) -> Array:
    """Whether no floating leaf has a NaN or an infinity."""
    leaves = [x for x in jax.tree.leaves(trees) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    return jnp.all(jnp.stack([_finite(x) for x in leaves])) if leaves else jnp.array(True)


@jax.jit
def _finite(x: Any) -> Array:
    return jnp.all(jnp.isfinite(x))


norm = jax.jit(tree.norm)  # outside of jit, tree.norm would compile its branches again in every step


def arrays(params: Params) -> Params:
    """Python numbers as arrays; everything else as it is."""
    return jax.tree.map(lambda x: x if hasattr(x, "dtype") else jnp.asarray(x), params)


def find_state(name: str, state: Any, kind: type) -> Any:
    """The one state of that class in ``state``, itself or inside a chain's; else ``ValueError``."""
    is_it = lambda x: isinstance(x, kind)
    found = [x for x in jax.tree.leaves(state, is_leaf=is_it) if is_it(x)]
    if len(found) != 1:
        raise ValueError(f"{name}: state holds {len(found)} {kind.__name__}, expected one")
    return found[0]
