"""DiLoCo: workers that train on their own and exchange only once in many steps, for slow links between them.

[1] Douillard et al., "DiLoCo: Distributed Low-Communication Training of Language Models", 2023,
    arXiv:2311.08105, Alg. 1.
[2] Douillard et al., "Streaming DiLoCo with overlapping communication", 2025, arXiv:2501.18512, section 2.3
    (exchange in few bits).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxopt_lite import checks, tree
from jaxopt_lite.batches import check_count
from jaxopt_lite.compose import _require_transformation, apply_updates
from jaxopt_lite.optimizers.moments import own_copy
from jaxopt_lite.transformation import transformation
from jaxopt_lite.types import Array, OptState, Params


class DilocoState(NamedTuple):
    """Inner steps so far, where all workers stood after the last exchange, and the two optimizers' states."""

    count: Array  # [] int32
    anchor: Params  # like params
    inner: OptState
    outer: OptState


@transformation
def diloco(inner, outer, *, sync_every: int, axis_name: Any, codec: Any = None):
    """``inner`` on each worker alone; every ``sync_every`` steps one step of ``outer`` on the average way gone [1].

    ```
    θ ← θ + inner(g)                       every step; g and θ are the worker's own
    Δ = mean over workers of (a − θ)       every sync_every-th step; a is where all of them began
    a ← a + outer(Δ)
    θ ← a
    ```

    With one worker, ``sync_every=1`` and ``outer=sgd(1.0)`` this is ``inner`` to the bit. After an exchange the
    workers' parameters agree but for the rounding of θ + (a − θ), which does not grow: the way is counted from a.

    Args:
      inner: the workers' transformation, say ``adamw(…)``.
      outer: the transformation of the average, as in [1] ``sgd(0.7, momentum=0.9, nesterov=True)``.
      sync_every: inner steps from one exchange to the next (500 in [1]).
      axis_name: the axis of ``shard_map`` over which workers lie, a tuple of axes, or ``None`` for one worker.
      codec: how the way gone travels, as in [2]: one of ``jaxopt_lite.precision``, say ``int8_codec()``, for a
        quarter of the bytes of float32. Rounding errors are not carried over. Complex leaves travel as they are.

    Let it be the last link of a chain, and call ``update`` under ``shard_map``, with a leading axis of workers
    over everything that is a worker's own, the state included::

        own = lambda tree: jax.tree.map(lambda x: x[0], tree)       # of the axis of workers
        back = lambda tree: jax.tree.map(lambda x: x[None], tree)

        def step(params, state, batch):
            grads = jax.grad(loss)(own(params), own(batch))
            updates, state = tx.update(grads, own(state), own(params))
            return back(apply_updates(own(params), updates)), back(state)

        step = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=P("workers"), out_specs=P("workers")))

    (Under ``vmap`` it is right too, but there a condition is no branch, so there is an exchange in every step.)

    State: the parameters once more, and the states of ``inner`` and ``outer``.

    Raises:
      ValueError: ``sync_every`` below 1, or ``update`` without ``params``.

    >>> import jaxopt_lite as jol
    >>> tx = diloco(jol.sgd(0.5), jol.sgd(1.0), sync_every=1, axis_name=None)
    >>> tx.update(jnp.ones(2), tx.init(jnp.zeros(2)), jnp.zeros(2))[0].tolist()
    [-0.5, -0.5]
    """
    _require_transformation("diloco: inner", inner)
    _require_transformation("diloco: outer", outer)
    check_count("diloco", "sync_every", sync_every)
    local = optax.with_extra_args_support(inner)

    def init(params):
        anchor = jax.tree.map(lambda p: own_copy(p, p.dtype), params)
        wide = jax.tree.map(lambda p: own_copy(p, tree.moment_dtype(p)), params)
        return DilocoState(jnp.zeros([], jnp.int32), anchor, local.init(params), outer.init(wide))

    def update(updates, state, params=None, **extra):
        checks.require_params("diloco", params)
        count = optax.safe_increment(state.count)
        updates, inner_state = local.update(updates, state.inner, params, **extra)
        before = _map(lambda u, p, a: _wide(p) - _wide(a), updates, params, state.anchor)

        def exchange():
            way = _map(lambda u, b: -(b + _wide(u)), updates, before)
            mean = _map(lambda x: _mean(x, axis_name, codec), way)
            step, outer_state = outer.update(mean, state.outer, jax.tree.map(_wide, state.anchor))
            back = _map(lambda u, s, b: (s - b).astype(u.dtype), updates, step, before)
            return back, apply_updates(state.anchor, step), outer_state

        stay = lambda: (updates, state.anchor, state.outer)
        axes = _varying((updates, state, params))
        branches = [lambda f=f: _vary(f(), axes) for f in (exchange, stay)]
        updates, anchor, outer_state = lax.cond(count % sync_every == 0, *branches)
        return updates, DilocoState(count, anchor, inner_state, outer_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _map(f: Callable, first: Any, *others: Any) -> Any:
    """``jax.tree.map`` in which a ``None`` of the first tree (no gradient there) stays ``None``."""
    kept = lambda x, *rest: None if x is None else f(x, *rest)
    return jax.tree.map(kept, first, *others, is_leaf=tree.is_none)


def _wide(x: Any) -> jax.Array:
    return jnp.asarray(x).astype(tree.moment_dtype(x))


def _mean(x: jax.Array, axis_name: Any, codec: Any) -> jax.Array:
    """The mean over workers; through a codec what is stored travels, and each worker decodes it one by one."""
    if axis_name is None:
        return x
    if codec is None or jnp.iscomplexobj(x):
        return lax.pmean(x, axis_name)
    stored = lax.all_gather(codec.encode(x), axis_name)
    add = lambda total, part: (total + codec.decode(part).astype(x.dtype), None)
    workers = lax.axis_size(axis_name)
    total, _ = lax.scan(add, _vary(jnp.zeros_like(x), _varying((x, stored))), stored)
    return total / workers


def _varying(arrays: Any) -> frozenset:
    """The axes of ``shard_map`` over which any of the arrays differs, as JAX's types tell."""
    types = [jax.typeof(x) for x in jax.tree.leaves(arrays)]
    return frozenset().union(*(getattr(t, "vma", frozenset()) for t in types))


def _vary(arrays: Any, axes: frozenset) -> Any:
    """The arrays typed as differing over ``axes``, so that two branches have one type."""

    def cast(x):
        missing = tuple(sorted(axes - _varying(x)))
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, arrays)
