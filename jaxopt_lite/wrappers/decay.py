"""Weight decay around any optimizer, with a schedule of its own and other rates for other parameters.

[1] Loshchilov, Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101, Sec. 2.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax

from jaxopt_lite import checks
from jaxopt_lite.compose import _require_transformation, chain, path_string
from jaxopt_lite.optimizers.scale import add_decayed_weights
from jaxopt_lite.transformation import transformation
from jaxopt_lite.types import Mask, Params, ScalarOrSchedule


@transformation
def decay(tx, weight_decay: ScalarOrSchedule | Mapping[str, ScalarOrSchedule], *, mask: Mask | None = None):
    """Weight decay outside of ``tx``: every step takes the part λₜ off the parameters, whatever the learning rate.

    ```
    uₜ = tx's update − λₜ·pₜ
    ```

    adamw's ``weight_decay`` is multiplied by the learning rate and follows its schedule; this λ follows its own.
    Where η is constant, ``decay(adam(η), η·λ)`` is ``adamw(η, weight_decay=λ)``. It also adds decay to what has
    none, and keeps it out of ``cautious`` and ``lookahead``.

    Args:
      tx: any optax-protocol transformation, a whole optimizer.
      weight_decay: λ in [0, 1], a float, a 0-d array or a schedule of the step; or one of these for each regular
        expression, ``{"embed": 0.0, "kernel$": cosine(1e-4, 10_000)}``: the first that matches (``re.search``) a
        parameter's path, like ``"layers/0/kernel"``, rules, and what none matches does not decay.
      mask: a tree of bools like the parameters (or a prefix of theirs), or a function from parameters to one,
        for instance ``lambda params: jax.tree.map(lambda p: p.ndim > 1, params)``; not together with patterns.

    State: ``tx``'s, and the count of a schedule. ``update`` needs ``params``.

    >>> import jaxopt_lite as jol
    >>> params = {"bias": jax.numpy.ones(1), "kernel": jax.numpy.ones(1)}
    >>> tx = decay(jol.sgd(1.0), {"kernel": 0.25})
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> updates["bias"].item(), updates["kernel"].item()
    (-1.0, -1.25)
    """
    _require_transformation("decay: tx", tx)
    if not isinstance(weight_decay, Mapping):
        return chain(tx, _shrink("weight_decay", weight_decay, mask))
    if mask is not None:
        raise ValueError(
            "decay: mask is given beside patterns, expected None: patterns choose the parameters"
        )
    patterns = tuple(weight_decay)
    rules = [
        _shrink(f"weight_decay[{p!r}]", weight_decay[p], functools.partial(_ruled_by, patterns, p))
        for p in patterns
    ]
    return chain(tx, *rules)


def _shrink(argument: str, rate: Any, mask: Any) -> Any:
    """u − λ·p."""
    checks.between("decay", argument, rate, 0, 1)
    negative = (lambda step: -rate(step)) if callable(rate) else -rate
    return add_decayed_weights(negative, mask)


def _ruled_by(patterns: tuple[str, ...], chosen: str, params: Params) -> Any:
    """Where ``chosen`` is the first of the patterns that matches the path."""
    first = lambda path: next((p for p in patterns if re.search(p, path_string(path))), None)
    return jax.tree_util.tree_map_with_path(lambda path, _: first(path) == chosen, params)
