"""A factory call as a value: how transformations and schedules print, compare, hash and pickle."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from optax import GradientTransformation


class Call:
    """A factory and the arguments it was called with; equal when both are equal by value."""

    def __init__(self, make: Callable, bound: inspect.BoundArguments):
        self.make = make
        self.args, self.kwargs = bound.args, bound.kwargs
        self.given = dict(bound.arguments)
        bound.apply_defaults()
        self.arguments = dict(bound.arguments)

    @functools.cached_property
    def key(self) -> tuple:
        """Hashable stand-in: the factory and every argument, defaults included."""
        return (self.make, tuple((name, by_value(value)) for name, value in self.arguments.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Call) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        parameters = inspect.signature(self.make).parameters
        words: list[str] = []
        for name, value in self.given.items():
            if parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
                words += [show(v) for v in value]
            elif parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                words += [f"{k}={show(v)}" for k, v in value.items()]
            elif by_value(value) != by_value(parameters[name].default):
                words.append(f"{name}={show(value)}")
        return f"{self.make.__name__}({', '.join(words)})"


def bind(make: Callable, args: tuple, kwargs: dict) -> Call:
    """The call ``make(*args, **kwargs)``; a wrong argument is a ``TypeError`` that names the factory."""
    try:
        return Call(make, inspect.signature(make).bind(*args, **kwargs))
    except TypeError as error:
        raise TypeError(f"{make.__name__}: {error}; its signature is {inspect.signature(make)}") from None


def rebuild(make: Callable, args: tuple, kwargs: dict) -> Any:
    """Call again: what unpickling does."""
    return make(*args, **kwargs)


def by_value(value: Any) -> Any:
    """A hashable key that two arguments share exactly when they mean the same."""
    if isinstance(value, jax.core.Tracer):
        return ("tracer", id(value))
    if isinstance(value, (jax.Array, np.ndarray)):
        array = np.asarray(value)
        return (array.dtype.str, array.shape, array.tobytes())
    if isinstance(value, functools.partial):
        return ("partial", by_value(value.func), by_value(value.args), by_value(value.keywords))
    if isinstance(value, (dict, list, tuple)) and not isinstance(value, GradientTransformation):
        leaves, treedef = jax.tree.flatten(value, is_leaf=lambda x: isinstance(x, GradientTransformation))
        return (treedef, tuple(by_value(leaf) for leaf in leaves))
    try:
        hash(value)
    except TypeError:
        return ("object", id(value))
    return value


def show(value: Any) -> str:
    """Short text for an argument: numbers and our own objects by ``repr``, functions by name, arrays by shape."""
    if isinstance(value, jax.core.Tracer) or (isinstance(value, (jax.Array, np.ndarray)) and value.ndim):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, (jax.Array, np.ndarray)):
        return f"{value.dtype}({value.item()!r})"
    if isinstance(value, functools.partial):
        words = [show(value.func), *map(show, value.args)]
        return f"partial({', '.join(words + [f'{k}={show(v)}' for k, v in value.keywords.items()])})"
    if isinstance(value, GradientTransformation) and not hasattr(value, "call"):
        return f"<{value.update.__module__.split('.')[0]} {value.update.__qualname__.split('.')[0]}>"
    if inspect.isroutine(value):
        return value.__name__
    return repr(value)
