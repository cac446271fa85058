"""Find items by name: ``optax.adam``, ``my_module:my_tx``, or every public factory of a module."""

import importlib
import warnings
from collections.abc import Iterable
from typing import Any

import jax

from jaxopt_lite.testing.loss_case import LossCase
from jaxopt_lite.testing.pytest_support import Case, as_case
from jaxopt_lite.testing.transformation_case import build, is_transformation


def resolve(name: str) -> Any:
    """The object called ``package.module.name`` or ``package.module:name``.

    >>> resolve("optax.contrib.muon") is resolve("optax.contrib:muon")
    True
    """
    module_name, colon, attributes = name.partition(":")
    if not colon:
        module_name, attributes = _longest_module(name)
    item = importlib.import_module(module_name)
    for attribute in filter(None, attributes.split(".")):
        item = getattr(item, attribute)
    return item


def _longest_module(name: str) -> tuple[str, str]:
    """Split a dotted name after the longest part that can be imported."""
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:count])
        try:
            importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not (module_name + ".").startswith(error.name + "."):
                raise
            continue
        return module_name, ".".join(parts[count:])
    raise ModuleNotFoundError(f"no module found in {name!r}")


def named_case(name: str, claims: Iterable[str] = ()) -> Case:
    """A case for the item of that name, which it shows in reports."""
    item = resolve(name)
    if isinstance(item, Case):
        return item
    if not callable(item) and not is_transformation(item):
        raise TypeError(f"{name} is a {type(item).__name__}, expected a transformation, a factory or a loss")
    return as_case(item, name=name, claims=claims)


def builds(factory: Any) -> bool:
    """Whether calling it with defaults (learning rate 0.01) makes a transformation that takes parameters."""
    try:
        tx = build(factory)
        return (
            is_transformation(tx) and jax.eval_shape(tx.init, {"a": jax.numpy.ones(2)}) is not NotImplemented
        )
    except Exception:
        return False


def all_factories(module_name: str) -> list[str]:
    """Names of a module's public factories that build with defaults; in a module of losses, of its losses."""
    module = importlib.import_module(module_name)
    public = getattr(module, "__all__", None) or [n for n in dir(module) if not n.startswith("_")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found = {n: getattr(module, n, None) for n in sorted(public)}
    functions = {n: f for n, f in found.items() if callable(f) and not isinstance(f, type)}
    if module_name.endswith("losses"):
        return [f"{module_name}.{n}" for n, f in functions.items() if _takes_two_arrays(f)]
    return [f"{module_name}.{n}" for n, f in functions.items() if builds(f)]


def _takes_two_arrays(loss: Any) -> bool:
    try:
        case = as_case(loss)
        return isinstance(case, LossCase) and bool(case.inputs)
    except Exception:
        return False
