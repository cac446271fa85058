"""`check_loss` and the table of its laws."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jaxopt_lite.testing import loss_edge_laws, loss_mask_laws, loss_protocol_laws, loss_symmetry_laws
from jaxopt_lite.testing.loss_case import LossCase
from jaxopt_lite.testing.report import Report, choose_laws, run_laws
from jaxopt_lite.testing.transformations import public_functions

loss_laws: dict[str, Callable[[Any], None]] = {
    name: law
    for module in (loss_protocol_laws, loss_edge_laws, loss_mask_laws, loss_symmetry_laws)
    for name, law in public_functions(module).items()
}


def check_loss(
    loss: Any,
    *,
    inputs: Sequence[Any] | Callable[[Any], Sequence[Any]] | None = None,
    oracle: Callable[..., Any] | None = None,
    laws: Iterable[Any] | Mapping[str, Callable[[Any], None]] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    **facts: Any,
) -> Report:
    """Hold every law against a loss, ours, optax's or yours.

    Args:
      loss: ``loss(predictions, targets, ...)``; options go in by `functools.partial`, so that the laws still
        see the arguments ``where``, ``weights`` and ``reduction``. A `LossCase` is taken as it is.
      inputs: a tuple of arrays or a function ``key -> tuple``; integer arrays are class ids. Guessed if left out.
      oracle: the same arguments as float64 NumPy arrays -> the unreduced values.
      laws: names of laws to run, or one's own functions; all by default.
      expected_failures: ``{"law": "why it may fail"}``. Such a law must fail: passing is a failure too.
      **facts: ``claims``, ``argnums``, ``name``, see `LossCase`.

    Returns:
      A `Report`.

    Raises:
      ConformanceError: (an ``AssertionError``) with all failures, each with input, got and expected.

    >>> square = lambda predictions, targets: (predictions - targets) ** 2
    >>> report = check_loss(square, claims={"convex"}, laws=["convex", "jit_equals_eager"], name="square")
    >>> print(report.summary())
    square: 2 passed, 0 failed, 0 declared, 0 not run
    """
    case = loss_case(loss, inputs=inputs, oracle=oracle, expected_failures=expected_failures, **facts)
    chosen = choose_laws(laws, loss_laws, case.expected_failures)
    return run_laws(case, chosen).raise_for_failures()


def loss_case(item: Any, **facts: Any) -> LossCase:
    """The item as a case; one that is a case already must not be given other facts."""
    if not isinstance(item, LossCase):
        return LossCase(item, **facts)
    given = [name for name, value in facts.items() if value is not None]
    if given:
        raise TypeError(f"a LossCase already has its {', '.join(given)}: put them there")
    return item
