"""Bound an update: entry by entry, or by its norm over the whole tree.

[1] Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML 2013.
"""

from typing import Any

import jax.numpy as jnp

from jaxopt_lite import checks, tree
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.types import Scalar


@transformation
def clip(max_delta: Scalar):
    """Every entry into [−max_delta, max_delta]; real leaves only; NaN stays NaN.

    >>> tx = clip(1.0)
    >>> g = jnp.array([3.0, -0.5, -jnp.inf])
    >>> tx.update(g, tx.init(g))[0].tolist()
    [1.0, -0.5, -1.0]
    """
    checks.between("clip", "max_delta", max_delta, 0, float("inf"))

    def rule(g, p, s):
        return (jnp.clip(g, -max_delta, max_delta),)

    return elementwise(rule, together=None)


@transformation
def clip_by_global_norm(max_norm: Scalar, *, axis_name: Any = None):
    """Scale all leaves by one number so that their joint norm is at most ``max_norm`` [1].

    ```
    ‖g‖ = √(Σ |gᵢ|²) over all leaves
    u   = g · max_norm / ‖g‖   if ‖g‖ > max_norm, else g
    ```

    The norm is a float32 one for any magnitude: right for float16 entries of 300, for 1e20 and for 1e-25. A
    norm that is not finite cannot be clipped: the updates then pass as they are, and ``skip_nonfinite`` sees
    them.

    Args:
      max_norm: the bound, ≥ 0.
      axis_name: under ``shard_map``, the mesh axis (or axes) over which leaves are sharded.

    >>> tx = clip_by_global_norm(1.0)
    >>> g = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    >>> updates, _ = tx.update(g, tx.init(g))
    >>> round(updates["a"].item(), 6), round(updates["b"].item(), 6)
    (0.6, 0.8)
    """
    checks.between("clip_by_global_norm", "max_norm", max_norm, 0, float("inf"))

    def scalars(t, updates):
        norm = tree.norm(updates, axis_name=axis_name)
        clipped = (norm > max_norm) & jnp.isfinite(norm)
        return jnp.where(clipped, max_norm / jnp.where(clipped, norm, 1), 1)

    def rule(g, p, factor):
        return (
            g * factor,
        )  # one number computed beforehand, so that XLA fuses the product into what follows

    return elementwise(rule, scalars=scalars, reads_tree=True, together=None)
