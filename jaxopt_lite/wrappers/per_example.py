"""Clipping of every example's gradient, for differential privacy.

[1] Abadi et al., "Deep Learning with Differential Privacy", CCS 2016, arXiv:1607.00133, Alg. 1.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxopt_lite import checks, tree
from jaxopt_lite.transformation import transformation
from jaxopt_lite.types import Array, Scalar


@transformation
def per_example_clip(max_norm: Scalar):
    """The sum of the examples' gradients, each scaled to a norm of at most ``max_norm`` [1].

    ```
    u = Σᵦ gᵦ · min(1, C / ‖gᵦ‖),  ‖gᵦ‖ over the whole tree
    ```

    Every gradient has a leading axis of examples, ``[B, *shape of the parameter]``; the result has none. An
    example with a NaN or an infinity contributes exactly zero, so that the sum changes by at most C when one
    example does. Put it first in a chain, then noise and the division by the batch size::

        grads = jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, batch)  # of one example's loss each
        noise = optax.add_noise(eta=(sigma * 1.0) ** 2, gamma=0.0, key=0)   # eta is the variance
        tx = jol.chain(per_example_clip(1.0), noise, optax.scale(1 / batch_size), jol.adam(1e-3))

    Args:
      max_norm: C ≥ 0.

    ``update`` raises ``ValueError`` for gradients without the axis, or with axes of different length.

    >>> tx = per_example_clip(1.0)
    >>> g = jnp.array([[3.0, 4.0], [0.0, 0.5], [jnp.inf, 0.0]])  # three examples
    >>> updates, _ = tx.update(g, tx.init(g[0]))
    >>> [round(u, 4) for u in updates.tolist()]
    [0.6, 1.3]
    """
    checks.between("per_example_clip", "max_norm", max_norm, 0, float("inf"))

    def update(updates, state, params=None, **extra):
        _check_axis(updates)
        if params is not None:
            one = jax.tree.map(lambda g: jax.ShapeDtypeStruct(g.shape[1:], g.dtype), updates)
            checks.same_tree("per_example_clip.update", "an example of updates", one, "params", params)
        norms = jax.vmap(tree.norm)(updates) if jax.tree.leaves(updates) else None
        return jax.tree.map(lambda g: _clipped_sum(g, norms, max_norm), updates), state

    update.example_axis = True  # type: ignore[attr-defined]  # for transformation.checked
    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _check_axis(updates: Any) -> None:
    """``ValueError`` unless all arrays have a leading axis of one length."""
    shapes = [jnp.shape(g) for g in jax.tree.leaves(updates)]
    if any(not shape or shape[0] != shapes[0][0] for shape in shapes):
        expected = "expected a leading axis of examples of one length"
        raise ValueError(f"per_example_clip.update: updates have shapes {shapes}, {expected}")


@jax.jit
def _clipped_sum(g: Array, norms: Array, max_norm: Any) -> Array:
    """One leaf's sum; a select before the product, since NaN·0 is NaN."""
    norms = norms.astype(jnp.promote_types(norms.dtype, jnp.finfo(g.dtype).dtype))
    finite, over = jnp.isfinite(norms), norms > max_norm
    factor = jnp.where(over, max_norm / jnp.where(over, norms, 1), 1)
    along = lambda x: x.reshape((-1,) + (1,) * (g.ndim - 1))
    wide = g.astype(tree.moment_dtype(g))
    kept = jnp.where(along(finite), wide, 0) * along(jnp.where(finite, factor, 0)).astype(wide.real.dtype)
    return jnp.sum(kept, 0).astype(g.dtype)
