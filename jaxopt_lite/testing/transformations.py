"""`check_transformation` and the table of its laws."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxopt_lite.testing import dtype_laws, mesh_laws, protocol_laws, tree_laws, value_laws
from jaxopt_lite.testing.report import Report, choose_laws, run_laws
from jaxopt_lite.testing.transformation_case import TransformationCase

MODULES = (protocol_laws, tree_laws, dtype_laws, value_laws, mesh_laws)


def public_functions(module: Any) -> dict[str, Callable[[Any], None]]:
    """The functions a module of laws defines, in its order."""
    own = {n: f for n, f in vars(module).items() if getattr(f, "__module__", None) == module.__name__}
    return {n: f for n, f in own.items() if callable(f) and not n.startswith("_") and not isinstance(f, type)}


transformation_laws: dict[str, Callable[[Any], None]] = {
    name: law for module in MODULES for name, law in public_functions(module).items()
}


def check_transformation(
    tx_or_factory: Any,
    *,
    params: Any = None,
    laws: Iterable[Any] | Mapping[str, Callable[[Any], None]] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    **facts: Any,
) -> Report:
    """Hold every law against a gradient transformation, ours, optax's or yours.

    Args:
      tx_or_factory: anything with ``init`` and ``update``, or a function that makes one (a learning rate
        without a default is 0.01); a `TransformationCase` is taken as it is.
      params: the parameters of the ordinary laws; a small matrix and vector by default.
      laws: names of laws to run, or one's own functions; all by default.
      expected_failures: ``{"law": "why it may fail"}``. Such a law must fail: passing is a failure too.
      **facts: ``claims``, ``extra``, ``oracle``, ``name``, see `TransformationCase`.

    Returns:
      A `Report`.

    Raises:
      ConformanceError: (an ``AssertionError``) with all failures, each with input, got and expected.

    >>> import optax
    >>> report = check_transformation(optax.sgd, claims={"linear"}, laws=["linear", "descends"])
    >>> print(report.summary())
    sgd: 2 passed, 0 failed, 0 declared, 0 not run
    """
    case = transformation_case(tx_or_factory, params=params, expected_failures=expected_failures, **facts)
    chosen = choose_laws(laws, transformation_laws, case.expected_failures)
    return run_laws(case, chosen).raise_for_failures()


def transformation_case(item: Any, **facts: Any) -> TransformationCase:
    """The item as a case; one that is a case already must not be given other facts."""
    if not isinstance(item, TransformationCase):
        return TransformationCase(item, **facts)
    given = [name for name, value in facts.items() if value]
    if given:
        raise TypeError(f"a TransformationCase already has its {', '.join(given)}: put them there")
    return item
