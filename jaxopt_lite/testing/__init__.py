"""A conformance kit for anybody's loss or gradient transformation.

``check_transformation(my_optimizer)`` and ``check_loss(my_loss)`` hold named laws against an item and raise one
error with all that it breaks; ``parametrize_with_laws`` makes pytest tests of them; ``python -m
jaxopt_lite.testing optax.adam my_module:my_tx`` prints a table. ``strategies`` (hypothesis) is loaded when asked for.
What an item may claim about itself stands in ``claims``.
"""

import importlib
from typing import Any

from jaxopt_lite.testing.codecs import check_codec, codec_laws
from jaxopt_lite.testing.loss_case import LossCase
from jaxopt_lite.testing.losses import check_loss, loss_laws
from jaxopt_lite.testing.pytest_support import parametrize_with_laws
from jaxopt_lite.testing.report import ConformanceError, LawBroken, NotRun, Report, Result
from jaxopt_lite.testing.schedules import check_schedule, schedule_laws
from jaxopt_lite.testing.transformation_case import TransformationCase
from jaxopt_lite.testing.transformations import check_transformation, transformation_laws

__all__ = [
    "ConformanceError",
    "LawBroken",
    "LossCase",
    "NotRun",
    "Report",
    "Result",
    "TransformationCase",
    "check_codec",
    "check_loss",
    "check_schedule",
    "check_transformation",
    "codec_laws",
    "loss_laws",
    "parametrize_with_laws",
    "schedule_laws",
    "strategies",
    "transformation_laws",
]


def __getattr__(name: str) -> Any:
    if name == "strategies":
        return importlib.import_module("jaxopt_lite.testing.strategies")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
