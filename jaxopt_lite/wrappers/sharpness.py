"""Sharpness-aware minimization: the gradient is taken where the loss is highest nearby.

[1] Foret, Kleiner, Mobahi, Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving Generalization",
    ICLR 2021, arXiv:2010.01412, Alg. 1.
"""

import jax
import jax.numpy as jnp
import optax

from jaxopt_lite import checks, tree
from jaxopt_lite.compose import apply_updates
from jaxopt_lite.transformation import transformation
from jaxopt_lite.types import Array, Scalar
from jaxopt_lite.wrappers import inner as within


@transformation
def sam(tx, *, rho: Scalar = 0.05):
    """SAM [1]: ``tx`` with the gradient at the top of a ball around the parameters, to first order.

    ```
    ε = ρ · g / ‖g‖             over the whole tree; 0 where g is 0
    u = tx's update for ∇loss(p + ε)
    ```

    ``update`` needs ``params`` and the extra argument ``grad_fn``, this batch's gradient as a function of the
    parameters alone, and evaluates it once more; ``make_step`` and ``fit`` provide it::

        grad_fn = lambda params: jax.grad(loss)(params, batch)
        updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)

    p + ε is rounded to the parameters' dtype: in 16 bits a small ρ may get lost.

    Args:
      tx: any optax-protocol transformation; it gets all extra arguments.
      rho: ρ ≥ 0, the radius.

    State: ``tx``'s.

    >>> import jaxopt_lite as jol
    >>> grad_fn = jax.grad(lambda p: jnp.sum(p**2) / 2)
    >>> params = jnp.array([3.0, 4.0])
    >>> tx = sam(jol.sgd(1.0), rho=5.0)
    >>> updates, _ = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)
    >>> updates.tolist()
    [-6.0, -8.0]
    """
    checks.between("sam", "rho", rho, 0, float("inf"), open_high=True)
    inner = within.adopt("sam", tx)

    def update(updates, state, params=None, *, grad_fn=None, **extra):
        checks.require_params("sam", params)
        if grad_fn is None:
            raise ValueError(
                "sam.update: the extra argument grad_fn is None, expected grad_fn(params) -> grads"
            )
        norm = within.norm(updates)
        factor = rho / jnp.where(norm > 0, norm, 1)
        grads = grad_fn(apply_updates(params, jax.tree.map(lambda g: _scaled(g, factor), updates)))
        checks.same_tree("sam.update", "grad_fn(params)", grads, "params", params)
        like = lambda g, new: None if g is None else new.astype(g.dtype)
        grads = jax.tree.map(like, updates, grads, is_leaf=tree.is_none)
        return inner.update(grads, state, params, grad_fn=grad_fn, **extra)

    return optax.GradientTransformationExtraArgs(lambda params: inner.init(within.arrays(params)), update)


def _scaled(g: Array, factor: Array) -> Array:
    wide = g.astype(tree.moment_dtype(g))
    return wide * factor.astype(wide.real.dtype)
