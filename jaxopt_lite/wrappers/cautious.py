"""Cautious optimizers: an update moves only the entries that it moves against their gradient.

[1] Liang, Chen, Liu, Liu, "Cautious Optimizers: Improving Training with One Line of Code", 2024,
    arXiv:2411.16085, Alg. 1.
"""

import jax
import jax.numpy as jnp
import optax

from jaxopt_lite.transformation import transformation
from jaxopt_lite.tree import abs_bound, is_none
from jaxopt_lite.types import Array
from jaxopt_lite.wrappers import inner as within


@transformation
def cautious(tx):
    """``tx`` where its update is against the gradient, more strongly there, and zero elsewhere [1].

    ```
    mᵢ = 1 where uᵢ·gᵢ < 0, else 0
    u  = u · m / max(mean(m), 10⁻³)         for each leaf
    ```

    Against momentum that still points where the loss has begun to rise. A complex entry counts where
    Re(conj(gᵢ)·uᵢ) < 0. An entry without gradient does not count, so a leaf of which few rows are in use, such as
    an embedding, takes up to 1,000 times longer steps there: give it another optimizer (``partition``).

    # deviation from [1]: divided by the mean of m, as in the authors' code, where the paper has (Σm + 1) / size.

    Args:
      tx: any optax-protocol transformation *whose updates are added to the parameters*: a whole optimizer. Around
        a part of one, such as ``scale_by_adam()``, whose updates point along the gradient, just the wrong entries
        would stay. Weight decay that is not to be masked goes outside: ``decay(cautious(adam(1e-3)), 1e-4)``.

    State: ``tx``'s.

    >>> import jaxopt_lite as jol
    >>> tx = cautious(jol.sgd(1.0, momentum=0.5))
    >>> _, state = tx.update(jnp.array([4.0, 4.0]), tx.init(jnp.zeros(2)))
    >>> tx.update(jnp.array([-1.0, 1.0]), state)[0].tolist()  # momentum alone would give [-1, -3]
    [0.0, -6.0]
    """
    inner = within.adopt("cautious", tx)

    def update(updates, state, params=None, **extra):
        new, state = inner.update(updates, state, params, **extra)
        aligned = lambda g, u: u if g is None else _aligned(g, u)
        return jax.tree.map(aligned, updates, new, is_leaf=is_none), state

    return optax.GradientTransformationExtraArgs(lambda params: inner.init(within.arrays(params)), update)


@jax.jit
def _aligned(g: Array, u: Array) -> Array:
    """The update of one leaf. Signs are compared, since a product may underflow."""
    kept = (_unit(g).conj() * _unit(u)).real < 0
    rows = jnp.sum(kept, axis=-1, dtype=jnp.int32) if kept.ndim else kept  # a leaf may have over 2³¹ entries
    factor = kept.size / jnp.maximum(jnp.sum(rows.astype(jnp.float32)), max(1, kept.size) * 1e-3)
    wide = u.astype(jnp.result_type(u.dtype, jnp.float32))
    return jnp.where(kept | jnp.isnan(u), wide * factor, 0).astype(u.dtype)


def _unit(x: Array) -> Array:
    """x with its magnitude near 1; 0 stays 0."""
    if not jnp.iscomplexobj(x):
        return jnp.sign(x)
    size = abs_bound(x)
    return x / jnp.where(size > 0, size, 1)
