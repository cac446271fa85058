"""optax's protocol types are optax's own objects, not copies of them."""

import jax
import optax

import jaxopt_lite as jol
from jaxopt_lite import types


def test_types_of_the_protocol_are_those_of_optax():
    for name in ("EmptyState", "GradientTransformation", "GradientTransformationExtraArgs", "MaskedNode"):
        assert getattr(types, name) is getattr(optax, name)
    assert types.Array is jax.Array


def test_all_is_what_the_module_defines():
    assert types.__all__ == sorted(types.__all__)
    assert all(hasattr(types, name) for name in types.__all__)


def test_ours_are_optax_transformations():
    for tx in (jol.sgd(0.1), jol.chain(), jol.tunable(jol.sgd, learning_rate=0.1), jol.freeze(True)):
        assert isinstance(tx, optax.GradientTransformationExtraArgs)
        assert len(tx) == 2
