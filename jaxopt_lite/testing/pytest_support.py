"""`parametrize_with_laws`: one test per item and law."""

from collections.abc import Iterable
from typing import Any

from jaxopt_lite.testing.loss_case import LossCase
from jaxopt_lite.testing.losses import loss_laws
from jaxopt_lite.testing.report import DECLARED, NOT_RUN, run_laws
from jaxopt_lite.testing.transformation_case import TransformationCase, is_transformation, required
from jaxopt_lite.testing.transformations import transformation_laws

Case = TransformationCase | LossCase


def as_case(item: Any, **facts: Any) -> Case:
    """A case for a transformation, a factory of one, or a loss.

    A function whose only required argument is a learning rate (or none) makes transformations; every other
    function is a loss.
    """
    if isinstance(item, Case):
        return item
    if is_transformation(item) or set(required(item)) <= {"learning_rate", "step_size"}:
        return TransformationCase(item, **facts)
    return LossCase(item, **facts)


def laws_of(case: Case) -> dict[str, Any]:
    """The laws for this kind of case."""
    return transformation_laws if isinstance(case, TransformationCase) else loss_laws


class BoundLaw:
    """A law and its case: call it with the item, as the test does."""

    def __init__(self, name: str, case: Case):
        self.name, self.case = name, case

    def __repr__(self) -> str:
        return self.name

    def __call__(self, item: Any = None) -> None:
        """Raise a `ConformanceError` if the law is broken; skip or xfail the test if it did not run or may break."""
        import pytest

        report = run_laws(self.case, {self.name: laws_of(self.case)[self.name]}).raise_for_failures()
        (result,) = report.results
        if result.status == NOT_RUN:
            pytest.skip(result.detail)
        if result.status == DECLARED:
            pytest.xfail(result.detail)


def parametrize_with_laws(items: Iterable[Any]) -> Any:
    """Decorator for a test ``test(item, law)``: it runs once for each item and law, and calls ``law(item)``.

    Items are transformations, factories, losses, or cases (`TransformationCase`, `LossCase`) with claims. ::

        @parametrize_with_laws([optax.adam, LossCase(optax.huber_loss, claims={"convex"})])
        def test_laws(item, law):
            law(item)

    >>> import optax
    >>> tests = parametrize_with_laws([optax.sgd, LossCase(optax.huber_loss)]).args[1]
    >>> tests[0].id, tests[-1].id
    ('sgd-structure_kept', 'huber_loss-convex')
    >>> item, law = tests[0].values
    >>> law(item)
    """
    import pytest

    cases = [as_case(item) for item in items]
    pairs = [(case, BoundLaw(name, case)) for case in cases for name in laws_of(case)]
    return pytest.mark.parametrize(
        ("item", "law"),
        [
            pytest.param(c.item if isinstance(c, TransformationCase) else c.loss, law, id=f"{c.name}-{law}")
            for c, law in pairs
        ],
    )
