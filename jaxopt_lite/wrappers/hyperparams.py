"""Hyperparameters as part of the state: change them between steps, or sweep them under ``vmap``."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxopt_lite.transformation import transformation
from jaxopt_lite.types import Array


class TunableState(NamedTuple):
    """The chosen hyperparameters beside the state of the transformation that they make."""

    hyperparams: dict[str, Array]  # [] float32 each
    inner: Any


@transformation
def tunable(factory: Callable, **hyperparams):
    """``factory(**hyperparams)`` with these hyperparameters kept in the state, as 0-d float32 arrays.

    Changing one (``set_hyperparams``) never recompiles, and a batch of states can be swept under ``vmap``.
    Bind the rest, and whatever is no number, beforehand: ``tunable(functools.partial(adamw, mask=fn),
    learning_rate=1e-3)``.

    >>> import jaxopt_lite as jol
    >>> tx = tunable(jol.sgd, learning_rate=0.5)
    >>> state = set_hyperparams(tx.init(jnp.zeros(2)), learning_rate=2.0)
    >>> tx.update(jnp.ones(2), state)[0].tolist()
    [-2.0, -2.0]
    """
    _check_names(factory, hyperparams)
    for name, value in hyperparams.items():
        if isinstance(value, (bool, np.bool_)) or callable(value) or isinstance(value, str) or np.ndim(value):
            raise TypeError(
                f"tunable: {name} is {value!r}, expected a number; bind it with "
                f"functools.partial({getattr(factory, '__name__', factory)}, {name}=...)"
            )

    def init(params):
        # A fresh buffer each, since states are donated.
        values = {k: jnp.array(v, jnp.float32, copy=True) for k, v in hyperparams.items()}
        return TunableState(values, factory(**values).init(params))

    def update(updates, state, params=None, **extra):
        inner = optax.with_extra_args_support(factory(**state.hyperparams))
        updates, new = inner.update(updates, state.inner, params, **extra)
        return updates, TunableState(state.hyperparams, new)

    return optax.GradientTransformationExtraArgs(init, update)


def _check_names(factory: Callable, hyperparams: dict) -> None:
    """A ``TypeError`` that lists the factory's arguments when one of the names is not among them."""
    name = getattr(getattr(factory, "func", factory), "__name__", repr(factory))
    parameters = inspect.signature(factory).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    unknown = [] if open_ended else [key for key in hyperparams if key not in parameters]
    if unknown:
        raise TypeError(f"tunable: {name} has no argument {unknown[0]!r}, only {', '.join(parameters)}")


def _is_tunable(x: Any) -> bool:
    return isinstance(x, TunableState)


def get_hyperparams(state: Any) -> dict[str, Array]:
    """The hyperparameters of every ``tunable`` inside ``state``, by name.

    Raises ``ValueError`` when there is none, or when two of them hold the same name.
    """
    found: dict[str, Array] = {}
    for part in _tunables(state):
        twice = found.keys() & part.hyperparams.keys()
        if twice:
            raise ValueError(f"get_hyperparams: {sorted(twice)} stand in more than one tunable of the state")
        found |= part.hyperparams
    if not found:
        raise ValueError(
            "get_hyperparams: the state holds no hyperparameters; wrap the factory in tunable(...)"
        )
    return found


def set_hyperparams(state: Any, **values: Any) -> Any:
    """A copy of ``state`` with new values, each in the shape it has there (a batch of them under ``vmap``).

    Raises ``ValueError`` for a name that the state does not hold, or that it holds twice.
    """
    known = get_hyperparams(state)
    unknown = [name for name in values if name not in known]
    if unknown:
        raise ValueError(
            f"set_hyperparams: no hyperparameter {unknown[0]!r}, expected one of {sorted(known)}"
        )

    def replace(part):
        if not _is_tunable(part):
            return part
        chosen = {k: _fill(k, values.get(k, old), old) for k, old in part.hyperparams.items()}
        return TunableState(chosen, set_inner(part.inner))

    set_inner = lambda inner: jax.tree.map(replace, inner, is_leaf=_is_tunable)
    return set_inner(state)


def _tunables(state: Any) -> list[TunableState]:
    """Every ``TunableState`` in the tree, nested ones included."""
    found = [x for x in jax.tree.leaves(state, is_leaf=_is_tunable) if _is_tunable(x)]
    return found + [inner for part in found for inner in _tunables(part.inner)]


def _fill(name: str, value: Any, old: Array) -> Array:
    value = jnp.array(value, jnp.float32, copy=True)
    if value.shape not in ((), jnp.shape(old)):
        raise ValueError(f"set_hyperparams: {name} has shape {value.shape}, expected () or {jnp.shape(old)}")
    return jnp.broadcast_to(value, jnp.shape(old)) if value.shape != jnp.shape(old) else value
