"""Root mean squares along axes, for entries of any magnitude."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_lite.tree import abs2, abs_bound, safe_sqrt, scaled_magnitude

SMALL = 2**16
"""Entries that stay in a cache, so that one more pass over them is nothing; a choice costs time to compile."""


def rms(x: jax.Array, axis: Any = None) -> jax.Array:
    """√mean(|x|²) along ``axis`` (kept, with length 1), also where the squares overflow; 0 without entries."""
    if x.size <= SMALL:
        largest = jax.lax.stop_gradient(jnp.max(abs_bound(x), axis, keepdims=True, initial=0))
        unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
        return safe_sqrt(_mean_square(x / unit, axis)) * unit
    plain = _mean_square(x, axis)

    def scaled():
        s = 2.0 ** -(jnp.finfo(plain.dtype).maxexp // 2 + 16)
        return jnp.where(
            jnp.isinf(plain), safe_sqrt(_mean_square(scaled_magnitude(x, s), axis)) / s, safe_sqrt(plain)
        )

    again = lambda: jax.lax.cond(jnp.any(jnp.isinf(plain)), scaled, lambda: safe_sqrt(plain))
    return jax.lax.platform_dependent(cpu=again, default=scaled)


def _mean_square(x: jax.Array, axis: Any) -> jax.Array:
    total = jnp.sum(abs2(x), axis, keepdims=True)
    return total / max(1, x.size // max(1, total.size))
