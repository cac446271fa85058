"""Steps with a NaN or an infinity are left out: ``skip_nonfinite``, and ``dynamic_loss_scale`` for float16.

[1] Micikevicius et al., "Mixed Precision Training", ICLR 2018, arXiv:1710.03740, Sec. 3.2.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_lite import checks, tree
from jaxopt_lite.batches import check_count
from jaxopt_lite.compose import of_leaf_rules
from jaxopt_lite.transformation import transformation
from jaxopt_lite.types import Array, OptState, Scalar
from jaxopt_lite.wrappers import inner as within


class SkipNonfiniteState(NamedTuple):
    """How many steps were not finite, and the state of the inner transformation; named as in optax."""

    notfinite_count: Array  # [] int32, in a row, up to now
    last_finite: Array  # [] bool
    total_notfinite: Array  # [] int32
    inner_state: OptState


@transformation
def skip_nonfinite(tx, max_consecutive: int | None = None):
    """Leave a step out when a gradient, or ``tx``'s update for it, has a NaN or an infinity.

    The update is then exactly zero and ``tx``'s state stays as it was, to the bit: later steps are as if this
    one had not been. optax's ``apply_if_finite`` looks at the gradients only.

    No copy of the state is made. On a CPU ``tx.update`` stands twice in the compiled step, for the update, and for
    the state once the update is known to be finite; elsewhere it does so if ``tx`` is made of leaf rules of this
    package, since that is less than to store an update until all are seen. XLA drops from each what the other needs.
    To look at updates costs time, most on a CPU, where the step takes about twice as long as optax's. A ``tx`` that
    calls the loss itself may call it twice: prefer ``sam(skip_nonfinite(tx))``.

    Args:
      tx: any optax-protocol transformation.
      max_consecutive: give up after so many steps left out in a row: the next one passes whatever it holds, so
        that a broken run shows. ``None``: never.

    State: ``tx``'s and three numbers; read ``state.total_notfinite``, or inside a chain
    ``optax.tree_utils.tree_get(state, "total_notfinite")``.

    >>> import jaxopt_lite as jol
    >>> tx = skip_nonfinite(jol.sgd(1.0))
    >>> updates, state = tx.update(jnp.array([jnp.nan, 1.0]), tx.init(jnp.zeros(2)))
    >>> updates.tolist(), int(state.total_notfinite)
    ([0.0, 0.0], 1)
    """
    if max_consecutive is not None:
        checks.between("skip_nonfinite", "max_consecutive", max_consecutive, 0, float("inf"))
    inner, cheap = within.adopt("skip_nonfinite", tx), of_leaf_rules(tx)

    def init(params):
        zero = lambda: jnp.zeros([], jnp.int32)
        return SkipNonfiniteState(zero(), jnp.array(True), zero(), inner.init(within.arrays(params)))

    def update(updates, state, params=None, **extra):
        given = updates, state.inner_state, params
        run = lambda given=given: inner.update(*given, **extra)
        new, inner_state = run()
        traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(new))
        seen = run(within.apart(given))[0] if traced and cheap else new
        finite = within.all_finite(updates, seen)
        count = jnp.where(finite, 0, optax.safe_increment(state.notfinite_count))
        total = state.total_notfinite
        total = jnp.where(finite, total, optax.safe_increment(total))
        passes = finite if max_consecutive is None else finite | (count > max_consecutive)
        again = run if traced else (lambda: (new, inner_state))
        kept = within.either(passes, lambda: again()[1], lambda: state.inner_state, inner_state)
        zeroed = jax.tree.map(lambda u: jnp.where(passes, u, jnp.zeros_like(u)), new)
        return zeroed, SkipNonfiniteState(count, finite, total, kept)

    return optax.GradientTransformationExtraArgs(init, update)


class LossScaleState(NamedTuple):
    """The scale, how it came about, and the state of the inner transformation."""

    scale: Array  # [] float32
    good_steps: Array  # [] int32, finite ones since the scale last changed
    skipped: Array  # [] int32, all that were not finite
    inner_state: OptState


@transformation
def dynamic_loss_scale(
    tx, *, initial: float = 2.0**15, factor: float = 2.0, period: int = 2000, minimum: float = 1.0
):
    """Divide gradients of a scaled loss by the scale, which falls when they overflow and else slowly grows [1].

    Small float16 gradients vanish; those of the loss times a large number do not. Multiply the loss by
    ``loss_scale(state)`` before you differentiate, and nothing else::

        def step(params, state, batch):
            scaled = lambda p: loss(p, batch) * jol.wrappers.loss_scale(state)
            updates, state = tx.update(jax.grad(scaled)(params), state, params)
            return jol.apply_updates(params, updates), state

    ```
    all gₜ finite:  uₜ = tx's update for gₜ / Sₜ, in float32;  S ← factor·S after ``period`` such steps in a row
    otherwise:      uₜ = 0, tx's state stays to the bit;      S ← max(S / factor, minimum)
    ```

    Args:
      tx: any optax-protocol transformation; clipping inside it sees the true gradients.
      initial: S₀.
      factor: > 1; a power of two keeps the gradients' digits.
      period: ≥ 1.
      minimum: where S stops falling. Lower it below 1 if the true gradients overflow.

    State: ``tx``'s and three numbers. With accumulation, ``accumulate(dynamic_loss_scale(tx), steps)`` keeps
    one scale for a window.

    >>> import jaxopt_lite as jol
    >>> tx = dynamic_loss_scale(jol.sgd(1.0), initial=8.0)
    >>> state = tx.init(jnp.zeros(2))
    >>> updates, state = tx.update(loss_scale(state) * jnp.array([1.0, 2.0]), state)
    >>> updates.tolist()
    [-1.0, -2.0]
    >>> updates, state = tx.update(jnp.array([jnp.inf, 1.0]), state)
    >>> updates.tolist(), loss_scale(state).item()
    ([0.0, 0.0], 4.0)
    """
    name, inf = "dynamic_loss_scale", float("inf")
    for argument, value, low in (("initial", initial, 0), ("factor", factor, 1), ("minimum", minimum, 0)):
        checks.between(name, argument, value, low, inf, open_low=True, open_high=True)
    check_count(name, "period", period)
    inner = within.adopt(name, tx)

    def init(params):
        zero = lambda: jnp.zeros([], jnp.int32)
        scale = jnp.array(initial, jnp.float32)
        return LossScaleState(scale, zero(), zero(), inner.init(within.arrays(params)))

    def update(updates, state, params=None, **extra):
        dtypes = within.update_dtypes(inner, updates, state.inner_state, params, extra)
        finite = within.all_finite(updates)

        def real():
            true = jax.tree.map(lambda g: _unscaled(g, state.scale), updates)
            new, inner_state = inner.update(true, state.inner_state, params, **extra)
            return within.cast_leaves(new, dtypes), inner_state

        skip = lambda: (within.zero_leaves(updates, dtypes), state.inner_state)
        new, inner_state = within.either(finite, real, skip)
        skipped = jnp.where(finite, state.skipped, optax.safe_increment(state.skipped))
        return new, LossScaleState(*_next_scale(state, finite, factor, period, minimum), skipped, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _unscaled(g: Array, scale: Array) -> Array:
    wide = g.astype(tree.moment_dtype(g))
    return wide / scale.astype(wide.real.dtype)


def _next_scale(state: LossScaleState, finite: Array, factor: Scalar, period: int, minimum: Scalar) -> Any:
    """The new scale and count of finite steps; a scale that would overflow stays."""
    good = jnp.where(finite, optax.safe_increment(state.good_steps), 0)
    up, down = state.scale * factor, jnp.maximum(state.scale / factor, jnp.minimum(state.scale, minimum))
    grows = (good >= period) & jnp.isfinite(up)
    scale = jnp.where(finite, jnp.where(grows, up, state.scale), down)
    return scale, jnp.where(good >= period, 0, good)


def loss_scale(state: OptState) -> Array:
    """The number to multiply the loss by: [] float32, from ``dynamic_loss_scale``'s state or a chain's with one in it.

    ``ValueError`` unless exactly one is in it.
    """
    return within.find_state("loss_scale", state, LossScaleState).scale
