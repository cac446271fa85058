"""Sign descent: every coordinate moves by η, in the direction of its gradient or of the averaged one.

[1] Bernstein, Wang, Azizzadenesheli, Anandkumar, "signSGD: Compressed Optimisation for Non-Convex Problems",
    ICML 2018, arXiv:1802.04434, Alg. 1 (signSGD) and Alg. 2 (Signum).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxopt_lite.compose import chain
from jaxopt_lite.optimizers import moments
from jaxopt_lite.optimizers.scale import add_decayed_weights, scale_by_learning_rate
from jaxopt_lite.transformation import elementwise, transformation
from jaxopt_lite.types import Array, Mask, Params, Scalar, ScalarOrSchedule


class EmaState(NamedTuple):
    """Step count and the average."""

    count: Array  # [] int32
    ema: Params  # like params, float32 for 16-bit ones


@transformation
def ema(decay: Scalar, debias: bool = True, accumulator_dtype: Any = None):
    """Exponential moving average of the updates.

    ```
    mₜ = β·mₜ₋₁ + (1 − β)·gₜ
    uₜ = mₜ / (1 − βᵗ)            (debias=False: mₜ)
    ```

    Args:
      decay: β in [0, 1).
      debias: divide by 1 − βᵗ, so that early averages are not too small.
      accumulator_dtype: how real leaves' m is stored; by default float32 for 16-bit parameters.
    """
    moments.check_rates("ema", decays={"decay": decay})

    def scalars(t, updates):
        return 1 / moments.bias_correction(decay, t) if debias else None

    def rule(g, p, factor, m):
        m = moments.ema(m, g, decay)
        return (m * factor if debias else m), m

    init = lambda leaf: (moments.first_moment(leaf, accumulator_dtype),)
    return elementwise(rule, EmaState, init=init, scalars=scalars)


@transformation
def scale_by_sign():
    """u = sign(g): −1, 0 or 1; for a complex entry g / |g|."""

    def rule(g, p, s):
        return (jnp.sign(g),)

    return elementwise(rule)


@transformation
def sign_sgd(
    learning_rate: ScalarOrSchedule, *, weight_decay: ScalarOrSchedule = 0.0, mask: Mask | None = None
):
    """signSGD [1, Alg. 1]: only the sign of each gradient counts.

    ```
    uₜ = −η · (sign(gₜ) + λ·pₜ)
    ```

    A complex entry's sign is g / |g|.

    Args:
      learning_rate: η, a float, a 0-d array or a schedule.
      weight_decay: λ, a float, a 0-d array or a schedule.
      mask: where λ applies: a tree of bools like the parameters (or a prefix), or a function from parameters to one.
    """
    return chain(
        scale_by_sign(), add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate)
    )


@transformation
def signum(
    learning_rate: ScalarOrSchedule,
    beta: Scalar = 0.9,
    accumulator_dtype: Any = None,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
):
    """Signum [1, Alg. 2]: the sign of the averaged gradient.

    ```
    mₜ = β·mₜ₋₁ + (1 − β)·gₜ
    uₜ = −η · (sign(mₜ) + λ·pₜ)
    ```

    A complex entry's sign is m / |m|.

    Args: those of ``sign_sgd``, and
      beta: β in [0, 1), decay of the average.
      accumulator_dtype: how real leaves' m is stored; by default float32 for 16-bit parameters.

    State: one float32 value per parameter.

    >>> import jax.numpy as jnp
    >>> tx = signum(0.1)
    >>> params = jnp.zeros(3)
    >>> tx.update(jnp.array([3.0, -1e-9, 0.0]), tx.init(params), params)[0].round(3).tolist()
    [-0.10000000149011612, 0.10000000149011612, -0.0]
    """
    return chain(
        ema(beta, debias=False, accumulator_dtype=accumulator_dtype),
        scale_by_sign(),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
